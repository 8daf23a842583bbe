"""Judges and hints of notebook 07, overlap. Times are made up, so that an answer is judged in
milliseconds; where threads are asked for, they are real."""

import random
import threading
from collections.abc import Callable, Iterator, Sequence

from aiinfra.errors import plural
from aiinfra.lab.exercise import Unsolved, Wrong, close, exercise, require
from aiinfra.lab.judging import about, answered, explain, number, pair

Span = tuple[float, float]
_PATIENCE = 2.0                  # seconds until a rank or a thread counts as lost


def _common(one: Span, other: Span) -> float:
    return max(0.0, min(one[1], other[1]) - max(one[0], other[0]))


def _spans(rng: random.Random, count: int) -> list[Span]:
    """So many, in order, with gaps between them."""
    ends = sorted(rng.sample(range(100), 2 * count))
    return [(float(start), float(end)) for start, end in zip(ends[::2], ends[1::2])]


def _total(spans: Sequence[Span]) -> float:
    return sum(end - start for start, end in spans)


@exercise("07.exposed", hints=(
    "A moment of the link is hidden if something is computed in the same moment. Which moments do two "
    "spans have in common?",
    "Two spans (a, b) and (c, d) have max(0, min(b, d) - max(a, c)) seconds in common. A transfer may lie "
    "under two computations, and a computation over two transfers.",
    "hidden = sum(max(0, min(b, d) - max(a, c)) for a, b in computing for c, d in transfers); exposed = "
    "the sum of all transfers' lengths - hidden. Return (hidden, exposed).",
))
def exposed(divide):
    rng = random.Random(7)
    cases = [
        ([(0.0, 3.0), (3.0, 8.0)], [(5.0, 7.0), (7.0, 12.0)]),
        ([(0.0, 2.0)], [(5.0, 6.0)]),
    ]
    for _ in range(30):
        cases.append((_spans(rng, 4), _spans(rng, 5)))
    for computing, transfers in cases:
        with about(f"computing {computing}, transfers {transfers}"):
            _judge_exposed(divide(list(computing), list(transfers)), computing, transfers)
    return ("In the page's own steps the same two numbers are `hidden_seconds` and the link's time without "
            "them.")


def _judge_exposed(got, computing: list[Span], transfers: list[Span]) -> None:
    pair(answered(got), f"you returned {got!r}; two numbers are wanted, (hidden, exposed).")
    hidden = sum(_common(one, other) for one in computing for other in transfers)
    want = (hidden, _total(transfers) - hidden)
    mine = tuple(number(part, "(hidden, exposed)") for part in got)
    least = min(_total(computing), _total(transfers))
    by_place = sum(_common(one, other) for one, other in zip(computing, transfers))
    signed = sum(min(a[1], b[1]) - max(a[0], b[0]) for a in computing for b in transfers)
    end = max(computing[-1][1], transfers[-1][1])
    idle = end - min(computing[0][0], transfers[0][0]) - _total(computing)
    explain(mine[0], (
        (least, "the shorter of the two sums is the most that could be hidden. How much is depends on "
                "when."),
        (signed, "spans that do not meet have nothing in common: theirs is 0, not a negative number."),
        (by_place, "the third transfer need not lie under the third computation: compare each with each."),
    ), unless=want[0])
    require(mine != want[::-1] or mine == want, "both numbers are right, in the other order: (hidden, "
                                                "exposed).")
    if mine[1] == idle and idle != want[1]:
        raise Wrong("that is the time in which nothing is computed; the link may be idle then, too. "
                    "Exposed is the link's time that is not hidden.")
    close(mine, want, "(hidden, exposed)")


@exercise("07.fill_buckets", hints=(
    "In which order do gradients come? And when is a bucket full: before or after it takes the next one?",
    "Go through the parameters from the last to the first. If the next one does not fit beside what is in "
    "the bucket, begin a new bucket with it.",
    "buckets = []; for i in reversed(range(len(sizes))): if not buckets or filled + sizes[i] > limit: "
    "buckets.append([]); filled = 0. Then buckets[-1].append(i); filled += sizes[i].",
))
def fill_buckets(fill):
    rng = random.Random(1)
    cases = [
        ([10, 20, 30, 40], 70), ([10, 20, 30], 1000), ([5, 100, 5], 50),
        ([7], 7), ([10, 10, 10, 10], 20),
    ]
    for _ in range(30):
        count = rng.randint(1, 12)
        sizes = [rng.randint(1, 60) for _ in range(count)]
        cases.append((sizes, rng.randint(40, 120)))
    for sizes, limit in cases:
        with about(f"sizes {sizes}, limit {limit}"):
            _judge_buckets(fill(list(sizes), limit), sizes, limit)
    return "The rule of PyTorch's DistributedDataParallel, whose limit is 25 MiB (its first bucket: 1 MiB)."


def _buckets(sizes: Sequence[int], limit: int) -> list[list[int]]:
    found: list[list[int]] = []
    for i in reversed(range(len(sizes))):
        if not found or sum(sizes[j] for j in found[-1]) + sizes[i] > limit:
            found.append([])
        found[-1].append(i)
    return found


def _judge_buckets(got, sizes: list[int], limit: int) -> None:
    got = answered(got)
    require(isinstance(got, list) and all(isinstance(one, list) for one in got),
            f"you returned {got!r}; a list of lists of numbers is wanted.")
    require(all(got), "one of your buckets is empty: what is larger than the limit has a bucket to itself, "
                      "and needs no empty one before it.")
    inside = [i for bucket in got for i in bucket]
    missing = sorted(set(range(len(sizes))) - set(inside))
    require(not missing, f"parameter {missing[:1]} is in no bucket: its gradient would never be summed.")
    require(len(inside) == len(sizes), "a parameter is in two buckets: its gradient would be summed twice.")
    if len(inside) > 1 and inside == sorted(inside):
        raise Wrong("yours begin with parameter 0. Its gradient comes last of all: the first bucket would "
                    "be full when the backward pass is over.")
    require(inside == sorted(inside, reverse=True), "gradients come in one order, from the last parameter "
                                                    "to the first. Do not sort by size: a bucket would "
                                                    "wait.")
    for bucket in got:
        total = sum(sizes[i] for i in bucket)
        require(total <= limit or len(bucket) == 1, f"bucket {bucket} has {total} bytes; {limit} are "
                                                    "allowed.")
    want = _buckets(sizes, limit)
    require(got == want, f"you have {got}; {want} is wanted: a bucket takes whatever still fits, since "
                         "every message costs a latency.")


def _step(forward: float, layers: Sequence[tuple[float, float]], latency: float, bandwidth: float) -> float:
    now, free = forward, 0.0
    for seconds, nbytes in layers:
        now += seconds
        free = max(now, free) + latency + nbytes / bandwidth
    return max(now, free)


@exercise("07.step_seconds", hints=(
    "Keep two clocks: when the backward pass has reached a layer, and when the link is free again.",
    "A transfer begins when both are there: its gradients, and the link. So it begins at max(now, free).",
    "now, free = forward, 0.0; for seconds, nbytes in layers: now += seconds; free = max(now, free) + "
    "latency + nbytes / bandwidth. Return free (or now, if there are no layers).",
))
def step_seconds(step):
    rng = random.Random(2)
    three = [(5.0, 100.0)] * 3
    cases = [
        (10.0, three, 1.0, 20.0),
        (10.0, three, 0.0, 100.0),
        (4.0, [(3.0, 50.0)], 2.0, 10.0),
    ]

    def some(low: int, high: int) -> float:
        return float(rng.randint(low, high))
    for _ in range(30):
        count = rng.randint(2, 8)
        layers = [(some(1, 9), some(10, 90)) for _ in range(count)]
        case = (some(1, 9), layers, some(0, 3), some(5, 30))
        cases.append(case)
    for case in cases:
        with about("forward {}, layers {}, latency {}, bandwidth {}".format(*case)):
            _judge_step(step(*case), case)
    return "Two clocks and a max: so every simulator of pipelines, of discs and of networks begins."


def _judge_step(got, case) -> None:
    forward, layers, latency, bandwidth = case
    got = number(got, "seconds")
    want = _step(*case)
    backward = sum(seconds for seconds, _ in layers)
    sending = [latency + nbytes / bandwidth for _, nbytes in layers]
    one_latency = latency + sum(nbytes for _, nbytes in layers) / bandwidth
    now, together = forward, 0.0
    for (seconds, _), sent in zip(layers, sending):
        now += seconds
        together = max(together, now + sent)
    at_once = max(forward + backward, forward + sum(sending))
    explain(got, (
        (forward + backward + sum(sending), "that is the step without overlap: the first bucket need not "
                                            "wait for the last layer."),
        (max(forward + backward, sum(sending)), "that is the longer of the two alone. The link cannot "
                                                "begin before it has something to carry: not in the "
                                                "forward pass."),
        (at_once, "in yours the link begins as soon as the forward pass is over. The first gradients come "
                  "when the first layer of the backward pass is done."),
        (together, "in yours transfers run at the same time, each at the full bandwidth. The link carries "
                   "one after another."),
        (_step(forward, layers, 0.0, bandwidth), "the latency is missing: each transfer costs one."),
        (_step(forward, layers, 0.0, bandwidth) + latency, "each transfer costs a latency, not the step "
                                                           "one."),
        (forward + backward + one_latency, "that is one bucket after the backward pass."),
    ), unless=want)
    close(got, want, "seconds")


@exercise("07.bucket_count", hints=(
    "More buckets: the first one leaves sooner. Fewer: less is paid in latencies. Try all of them.",
    "With n equal buckets, bucket i (1 … n) is ready at forward + backward · i / n, and takes latency + "
    "nbytes / n / bandwidth on a link that carries one at a time.",
    "def seconds(n): free = 0; for i in range(1, n + 1): free = max(free, forward + backward * i / n) + "
    "latency + nbytes / n / bandwidth; return free. Then min(range(1, most + 1), key=seconds).",
))
def bucket_count(best):
    cases = [
        (30.0, 60.0, 1000.0, 2.0, 11.0, 40), (30.0, 60.0, 1000.0, 0.1, 11.0, 40),
        (10.0, 90.0, 1000.0, 30.0, 50.0, 30), (5.0, 10.0, 1000.0, 1.0, 100.0, 60),
        (30.0, 60.0, 1000.0, 0.001, 20.0, 25),
    ]
    for case in cases:
        named = "forward {}, backward {}, nbytes {}, latency {}, bandwidth {}, most {}".format(*case)
        with about(named):
            _judge_count(best(*case), case)
    return ("A square root stands behind it: where the link is the slower of the two, about √(backward / "
            "latency).")


def _with_buckets(count: int, case) -> float:
    forward, backward, nbytes, latency, bandwidth, _ = case
    return _step(forward, [(backward / count, nbytes / count)] * count, latency, bandwidth)


def _judge_count(got, case) -> None:
    got = number(got, "buckets")
    forward, backward, nbytes, latency, bandwidth, most = case
    counts = range(1, most + 1)
    want = min(counts, key=lambda count: _with_buckets(count, case))
    require(got in counts, f"you return {got}; a whole number from 1 to {most} is wanted.")
    free_of_charge = (forward, backward, nbytes, 0.0, bandwidth, most)
    no_latency = min(counts, key=lambda count: _with_buckets(count, free_of_charge))
    mine, least = _with_buckets(got, case), _with_buckets(want, case)
    figures = f"with {got} the step takes {mine:.4g}, with {want} {least:.4g}"
    if got == 1 != want:
        raise Wrong(f"{figures}: one bucket has the fewest latencies, and hides nothing.")
    if got == no_latency != want:
        raise Wrong(f"{figures}: every bucket pays a latency, so small ones are not free.")
    require(got == want, f"{figures}.")


@exercise("07.ahead", hints=(
    "Somebody else has to do the next item's work: a ThreadPoolExecutor with one worker. What is submitted "
    "when?",
    "Submit the first item. Then for each further one: take the finished result, submit the next, and only "
    "then yield. The last result is yielded after the loop.",
    "with ThreadPoolExecutor(1) as pool: pending = None; for item in source: done, pending = pending, "
    "pool.submit(work, item) … but take done.result() BEFORE you submit; yield it after. `with` ends the "
    "thread.",
))
def ahead(make):
    for items in ([], [0], [0, 1], list(range(6))):
        with about(f"items {items}"):
            got = _listed(make(iter(items), lambda item: 10 * item))
            want = [10 * item for item in items]
            require(len(got) == len(want), f"you yield {plural(len(got), 'result')}; {len(want)} are "
                                           "wanted.")
            require(got == want, f"you yield {got}; {want} is wanted, in this order.")
    _works_on_the_next(make)
    _raises_in_turn(make)
    _leaves_no_thread(make)
    return ("One batch on its way. The library's pipeline is two of these in a row, and an agreement "
            "between ranks.")


def _listed(results) -> list:
    if results is None or results is Ellipsis:
        raise Unsolved
    return list(results)


def _works_on_the_next(make) -> None:
    """While the caller has an item, the next is worked on, in another thread, and none after it."""
    begun = [threading.Event() for _ in range(5)]
    names = []

    def work(item: int) -> int:
        names.append(threading.get_ident())
        begun[item].set()
        return item
    results = make(iter(range(5)), work)
    for item in results:
        if item < 4:
            require(begun[item + 1].wait(_PATIENCE), f"while the caller has item {item}, nobody works on "
                                                     f"item {item + 1}: nothing overlaps.")
        if item < 3:
            too_early = begun[item + 2].wait(0.02)
            require(not too_early, f"while the caller has item {item}, item {item + 2} is worked on, too. "
                                   "One ahead is enough; more would fill the memory with batches.")
    require(threading.get_ident() not in names[1:], "the work is done in the caller's own thread.")


def _raises_in_turn(make) -> None:
    def work(item: int) -> int:
        if item == 2:
            raise LookupError("item 2")
        return item
    seen = []
    try:
        for result in make(iter(range(5)), work):
            seen.append(result)
    except LookupError:
        require(seen == [0, 1], f"work(2) raises. The caller saw {seen} before it was told; [0, 1] are "
                                "wanted.")
        return
    raise Wrong("work(2) raises, and the caller is never told.")


def _leaves_no_thread(make) -> None:
    before = set(threading.enumerate())
    results = make(iter(range(9)), lambda item: item)
    next(results)
    results.close()
    list(make(iter(range(3)), lambda item: item))
    left = [thread for thread in set(threading.enumerate()) - before if thread.is_alive()]
    require(not left, f"{plural(len(left), 'thread')} of yours is left when the caller is done: end it, "
                      "also when the caller breaks off (`with`, or `finally`).")


@exercise("07.together", hints=(
    "A rank that has run dry must still answer once, or all others wait for its voice.",
    "In each round: take the next item if there is one; ask everybody(there is one); go on only if the "
    "answer is True. Ask before you yield, and never again after a False.",
    "batches = iter(batches); while True: item = next(batches, END); if not everybody(item is not END): "
    "return; yield item. END = object() cannot be an item.",
))
def together(take):
    for lengths in ([3, 3], [4, 2], [0, 3], [1, 5, 2], [0, 0], [2, 3, 4, 5]):
        with about(f"ranks with {lengths} batches"):
            _judge_ranks(take, lengths)
    return "One bit a step: `InputPipeline` sends it while the model is busy with the batch before."


class _Votes:
    """An all-reduce of one bit among threads: the least of what all say."""

    def __init__(self, ranks: int) -> None:
        self._barrier = threading.Barrier(ranks, timeout=_PATIENCE / 4)
        self._said = [True] * ranks

    def voice(self, rank: int) -> Callable[[bool], bool]:
        def everybody(mine: bool) -> bool:
            self._said[rank] = bool(mine)
            self._barrier.wait()
            answer = all(self._said)
            self._barrier.wait()
            return answer
        return everybody


def _judge_ranks(take, lengths: list[int]) -> None:
    votes, outcomes = _Votes(len(lengths)), {}

    def run(rank: int) -> None:
        seen: list[int] = []
        outcomes[rank] = (seen, "hangs")
        try:
            for item in _rounds(take, votes, rank, lengths[rank]):
                seen.append(item)
            outcomes[rank] = (seen, "")
        except threading.BrokenBarrierError:
            pass
        except BaseException as error:
            outcomes[rank] = (seen, error)
    ranks = [threading.Thread(target=run, args=(rank,), daemon=True) for rank in range(len(lengths))]
    for thread in ranks:
        thread.start()
    for thread in ranks:
        thread.join(_PATIENCE)
    _judge_outcomes(outcomes, lengths)


def _rounds(take, votes: _Votes, rank: int, length: int) -> Iterator[int]:
    got = take(iter(range(length)), votes.voice(rank))
    if got is None or got is Ellipsis:
        raise Unsolved
    for round_number, item in enumerate(got):
        require(round_number <= length, f"rank {rank} yields more batches than it has.")
        yield item


def _judge_outcomes(outcomes, lengths: list[int]) -> None:
    for _, how in outcomes.values():
        if isinstance(how, BaseException):
            raise how
    steps = min(lengths)
    hanging = [rank for rank, (_, how) in outcomes.items() if how == "hangs"]
    if hanging:
        gone = [rank for rank in outcomes if rank not in hanging]
        why = f"rank {gone[0]} has left without an answer" if gone else "no round ends"
        raise Wrong(f"rank {hanging[0]} waits for an answer that never comes: {why}. Everybody answers "
                    "once in every round, the last one included.")
    for rank, (seen, _) in outcomes.items():
        taken = plural(len(seen), "step")
        too_many = f"rank {rank} takes {taken}, and another rank has batches for {steps} only"
        require(len(seen) <= steps, f"{too_many}: ask before you yield.")
        require(seen == list(range(steps)), f"rank {rank} sees {seen}; {list(range(steps))} is wanted.")
