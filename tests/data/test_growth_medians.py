"""The data of notebook 01, checked for the slips that hand-made tables have."""

import numpy as np

from aiinfra.lab.source import data_file

TABLE = np.loadtxt(data_file("growth_medians.csv"), delimiter=",", skiprows=6)


def test_every_half_year_from_2_to_19():
    assert np.array_equal(TABLE[:, 0], np.arange(2, 19.5, 0.5))


def test_nobody_shrinks_and_growth_has_no_steps():
    growth = np.diff(TABLE[:, 1:], axis=0)                 # cm per half-year
    assert growth.min() >= 0 and growth.max() < 5.1
    early = np.abs(np.diff(growth, axis=0))                # a mistyped digit would show as a jump here
    assert early.max() < 0.8


def test_values_that_are_widely_quoted():
    """WHO medians (girls, boys) at 2 and 5 years (2006), 10 and 19 years (2007)."""
    rows = {row[0]: tuple(row[1:]) for row in TABLE}
    published = [(85.7, 87.1), (109.4, 110.0), (138.6, 137.8), (163.2, 176.5)]
    assert [rows[age] for age in (2, 5, 10, 19)] == published


def test_the_file_names_its_source():
    head = data_file("growth_medians.csv").read_text().split("age_years")[0]
    assert "World Health Organization" in head and "2006" in head and "2007" in head
