"""How many random cases a property is tried on: all of them in `make test`, a tenth in `make quick`.

    @examples(150)
    @given(…)
    def test_…
"""

from hypothesis import HealthCheck, settings

FULL = 100                                       # of a hundred
settings.register_profile("full", max_examples=FULL, deadline=None)
settings.register_profile("quick", max_examples=FULL // 10, deadline=None)
settings.load_profile("full")                    # pytest --hypothesis-profile=quick loads the other one, later


def examples(full: int, **others: object) -> settings:
    """The settings of a property that `make test` tries on `full` random cases; it may be slow, and take fixtures."""
    unhurried = [HealthCheck.too_slow, HealthCheck.filter_too_much, HealthCheck.function_scoped_fixture]
    share = settings.default.max_examples / FULL
    return settings(max_examples=max(1, round(full * share)), suppress_health_check=unhurried, **others)
