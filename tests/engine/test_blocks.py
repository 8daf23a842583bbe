"""The pool of blocks: who owns what, who is evicted first, and books that add up."""

import pytest

from aiinfra.engine.blocks import BlockPool, OutOfBlocks, chain


@pytest.mark.parametrize("arguments, message", [
    ((0, 4), "0 blocks of 4 tokens"), ((4, 0), "4 blocks of 0 tokens"),
])
def test_a_pool_of_nothing(arguments: tuple, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        BlockPool(*arguments)


def test_allocation_is_all_or_nothing() -> None:
    pool = BlockPool(3, 2)
    taken = pool.allocate(2)
    with pytest.raises(OutOfBlocks, match="2 blocks wanted, 1 of 3"):
        pool.allocate(2)
    assert pool.free == 1
    pool.release(taken)
    assert pool.free == 3


def test_content_is_evicted_least_recently_used_first() -> None:
    pool = BlockPool(2, 1)
    for token in (1, 2):
        [block] = pool.allocate(1)
        pool.seal(block, chain(b"", [token]))
        pool.release([block])
    pool.share(pool.match([1, 0]))
    pool.release(pool.match([1, 0]))                            # 1 was used after 2
    pool.allocate(1)
    assert pool.match([1, 0]) and not pool.match([2, 0])


def test_the_end_of_a_chain_is_evicted_before_its_beginning() -> None:
    pool, tokens, digests = BlockPool(3, 2), [1, 2, 3, 4, 5, 6, 7], []
    mine = pool.allocate(3)
    for i, block in enumerate(mine):
        digests.append(chain(digests[-1] if digests else b"", tokens[2 * i:2 * i + 2]))
        pool.seal(block, digests[i])
    pool.release(mine)
    for left in (3, 2, 1, 0):
        assert pool.match(tokens) == mine[:left]
        pool.check()
        if left:
            pool.allocate(1)


def test_who_can_be_found_has_a_digest() -> None:
    pool = BlockPool(2, 1)
    [block] = pool.allocate(1)
    assert pool.digest(block) is None
    pool.seal(block, chain(b"", [5]))
    assert pool.digest(block) == chain(b"", [5]) and not pool.keeps(block)
    pool.release([block])
    assert pool.keeps(block) and pool.match([5, 0]) == [block]
    pool.forget([block])
    assert pool.digest(block) is None and not pool.keeps(block) and pool.free == 2
    pool.check()


def damaged(how: str) -> BlockPool:
    pool = BlockPool(3, 1)
    [kept, owned] = pool.allocate(2)
    pool.seal(kept, chain(b"", [5]))
    pool.release([kept])
    if how == "lost":
        pool._owners[owned] = 0
    elif how == "free twice":
        pool._free.append(pool._free[0])
    elif how == "free and owned":
        pool._owners[pool._free[0]] = 1
    elif how == "a digest of nobody":
        pool._by_digest[b"x"] = owned
    elif how == "a digest that leads elsewhere":
        pool._digest[owned] = pool._digest[kept]
    else:
        pool._digest[pool._free[0]] = b"x"
        pool._by_digest[b"x"] = pool._free[0]
    return pool


@pytest.mark.parametrize("how, message", [
    ("lost", r"block 1: \(free, cached, used\) = \(False, False, False\)"), ("free twice", "free twice"),
    ("free and owned", r"block 2: \(free, cached, used\) = \(True, False, True\)"),
    ("a digest of nobody", "a block that does not have it"),
    ("a digest that leads elsewhere", "leads elsewhere"),
    ("free and known", "can still be found"),
])
def test_books_that_do_not_add_up_are_found_out(how: str, message: str) -> None:
    with pytest.raises(RuntimeError, match=message):
        damaged(how).check()
