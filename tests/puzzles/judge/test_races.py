"""Two programs, one element."""

import numpy as np

from puzzles.judge.races import RaceDetector


def test_races_between_any_two_programs_are_seen_in_any_order():
    element = np.array([3])
    for first, second, clash in (
        ("write", "write", True),
        ("read", "write", True),
        ("write", "read", True),
        ("read", "read", False),
        ("atomic", "atomic", False),
        ("atomic", "read", True),
        ("atomic", "write", True),
    ):
        detector = RaceDetector(5)
        assert detector.access(first, element, 0) is None
        assert (
            detector.access(first if first != "write" else "read", element, 0) is None
        ), "a program never races with itself"
        conflict = detector.access(second, element, 7)
        assert bool(conflict) == clash and (not clash or conflict[:2] == (3, 0)), (first, second)


def test_a_third_program_is_seen_behind_two_readers():
    detector = RaceDetector(1)
    for program in (4, 4, 9):
        detector.access("read", np.array([0]), program)
    assert detector.access("write", np.array([0]), 4)[1] == 9
