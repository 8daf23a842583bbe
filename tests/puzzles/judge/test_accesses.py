"""Every load, store and atomic is judged: bounds, lanes, programs, traffic."""

import torch
from tests.puzzles.judge.probe import OFFSETS, count, probe, total

from puzzles.tensors import Tensor, i32


def test_a_wild_index_is_caught_wherever_it_lands(workers):
    for index in ("i + 1000000000", "i - 2000000000", "i + 8"):
        verdict = probe(workers, OFFSETS + f"tl.store(z_ptr + i, tl.load(x_ptr + {index}))")
        assert verdict.kinds[0] == "out_of_bounds_read" and verdict.findings[0].program == (0,), index
        assert "x_ptr" in verdict.findings[0].message and "tl.load" in verdict.findings[0].code


def test_a_pointer_of_another_type_is_caught(workers):
    body = "p = x_ptr.to(tl.pointer_type(tl.int8))\ntl.store(z_ptr + i, tl.load(p + i).to(tl.float32))"
    assert probe(workers, OFFSETS + body).kinds[0] == "out_of_bounds_read"


def test_two_lanes_of_one_store_must_agree(workers):
    load = OFFSETS + "x = tl.load(x_ptr + i)\n"
    differ = probe(workers, load + "tl.store(z_ptr + i * 0, x)\ntl.store(z_ptr + i, x)")
    assert differ.kinds[0] == "race"
    same = probe(workers, load + "tl.store(z_ptr + i, x)\ntl.store(z_ptr + i * 0, tl.load(x_ptr) + 0.0 * i)")
    assert same.passed


def test_atomics_may_meet_and_plain_stores_may_not(workers):
    zero = Tensor(torch.float32, ("1",), start=0.0)
    body = "n = tl.program_id(0)\ntl.atomic_add(z_ptr, tl.load(x_ptr + n))"
    assert probe(workers, body, total, ("N",), zero).passed
    body = "n = tl.program_id(0)\ntl.store(z_ptr, tl.load(z_ptr) + tl.load(x_ptr + n))"
    assert probe(workers, body, total, ("N",), zero).kinds[0] == "race"


def test_a_program_that_reads_what_another_writes(workers):
    body = ("n = tl.program_id(0)\ntl.store(z_ptr + n, tl.load(x_ptr + n))\n"
            "tl.load(z_ptr + (n + 1) % N)")
    verdict = probe(workers, body, grid=("N",))
    assert verdict.kinds[0] == "race" and "program" in verdict.findings[0].message


def test_block_pointers_are_watched_too(workers):
    good = ("p = tl.make_block_ptr(x_ptr, (N,), (1,), (0,), (16,), (0,))\n"
            "o = tl.make_block_ptr(z_ptr, (N,), (1,), (0,), (16,), (0,))\n"
            "tl.store(o, tl.load(p, boundary_check=(0,)), boundary_check=(0,))")
    assert probe(workers, good).passed
    unchecked = good.replace("tl.load(p, boundary_check=(0,))", "tl.load(p)")
    assert probe(workers, unchecked).kinds[0] == "out_of_bounds_read"


def test_tensor_descriptors_are_watched_too(workers):
    good = ("p = tl.make_tensor_descriptor(x_ptr, [N], [1], [16])\n"
            "o = tl.make_tensor_descriptor(z_ptr, [N], [1], [16])\n"
            "o.store([0], p.load([0]))")
    assert probe(workers, good).passed
    outside = probe(workers, good.replace("x_ptr, [N]", "x_ptr, [N + 4]"))
    assert outside.kinds[0] == "out_of_bounds_read" and "p.load([0])" in outside.findings[0].code
    twice = probe(workers, good + "\no.store([0], p.load([0]))")
    assert twice.kinds == ("traffic",)


def test_scalars_are_loaded_with_masks_and_without(workers):
    for load in ("tl.load(x_ptr + n, mask=n < N, other=0.0)", "tl.load(x_ptr + n, n < N, 0)",
                 "tl.load(x_ptr + n, mask=True, other=0.0)", "tl.load(x_ptr + n, mask=n >= 0)",
                 "tl.load(x_ptr + tl.max(tl.full([4], n, tl.int32), 0), mask=n < N, other=0.0)"):
        for rows in ("range(N)", "range(0, N + 3)"):
            body = f"for n in {rows}:\n    tl.store(z_ptr + n, {load}, mask=n < N)"
            if rows == "range(N)" or "n < N" in load:
                assert probe(workers, body).passed, (load, rows)


def test_stores_count_as_traffic_and_never_lower_the_score(workers):
    once = OFFSETS + "tl.store(z_ptr + i, tl.load(x_ptr + i))"
    good, twice = probe(workers, once), probe(workers, once + "\ntl.store(z_ptr + i, tl.load(x_ptr + i))")
    assert good.traffic_score == 1.0 and "z: 8 elements, 8 stores (1.0 each)" in str(good)
    assert twice.kinds == ("traffic",) and twice.traffic_score == 2.0
    assert "z: 8 elements, 16 stores (2.0 each)" in str(twice)


def test_an_atomic_buys_no_second_store(workers):
    once, store = "tl.atomic_xchg(z_ptr + i, i)\n", "tl.store(z_ptr + i, i)\n"
    assert probe(workers, OFFSETS + once, count, out=i32("N")).passed
    for twice in (once + once, store + once, once + store):
        assert probe(workers, OFFSETS + twice, count, out=i32("N")).kinds == ("traffic",), twice
