"""A fleet is many schedulers on one clock: nobody is lost, and one replica is the simulator."""

import random
from dataclasses import replace

import pytest

from aiinfra.engine.request import Request
from aiinfra.plan.fleet import Autoscale, Failure, FleetPlan, serve_fleet
from aiinfra.plan.linear import LinearCost
from aiinfra.plan.routers import ROUTERS
from aiinfra.plan.simulate import simulate
from aiinfra.plan.traffic import Turn, TrafficShape, draw

COST = LinearCost(step_seconds=1 / 64, token_seconds=1 / 8192, context_seconds=2**-22)


def turns(per_second: float = 4.0, seconds: float = 60.0, seed: int = 0) -> list[Turn]:
    """Some come together."""
    drawn = draw(TrafficShape(seconds=seconds, per_second=per_second, peak=1, pause_seconds=5), seed)
    return [replace(turn, arrival_seconds=round(4 * turn.arrival_seconds) / 4) for turn in drawn]


@pytest.mark.parametrize("blocks", (600, 4000))
@pytest.mark.parametrize("max_running", (3, 64))
def test_one_replica_is_the_simulator_step_by_step(blocks: int, max_running: int) -> None:
    """Also where blocks are few, and requests are pushed out."""
    plan = FleetPlan(replicas=1, blocks=blocks, max_running=max_running, prefix_caching=False)
    todo = turns(8.0, seconds=20)
    run = serve_fleet(todo, plan, COST)
    requests = [Request(str(i), [0] * turn.prompt_tokens, turn.output_tokens) for i, turn in enumerate(todo)]
    first, last, previous, gaps = {}, {}, {}, []
    for step in simulate(plan.scheduler(), requests, [turn.arrival_seconds for turn in todo], COST):
        for made in step.made:
            first.setdefault(made.request_id, step.end_seconds)
            last[made.request_id] = step.end_seconds
            if made.request_id in previous:
                gaps.append(step.end_seconds - previous[made.request_id])
            previous[made.request_id] = step.end_seconds
    for visit in run.visits:
        assert visit.first_seconds == pytest.approx(first[str(visit.number)], rel=1e-9)
        assert visit.last_seconds == pytest.approx(last[str(visit.number)], rel=1e-9)
    [replica] = run.replicas
    assert replica.gaps.counts.total() == len(gaps)
    for q in (50, 90, 99, 100):
        expected = sorted(gaps)[max(0, -(-q * len(gaps) // 100) - 1)]
        assert replica.gaps.percentile(q) == pytest.approx(expected, rel=0.02)


@pytest.mark.parametrize("router", ROUTERS)
@pytest.mark.parametrize("seed", range(3))
def test_everybody_is_answered_or_has_failed(router: str, seed: int) -> None:
    """Whatever dies and is started meanwhile; a failed one had begun to stream."""
    draw_ = random.Random(seed)
    plan = FleetPlan(
        replicas=2,
        blocks=900,
        max_running=draw_.choice((4, 64)),
        router=router,
        start_seconds=7.0,
        autoscale=Autoscale(least=1, most=5, waiting_each=2.0, every_seconds=3.0),
        failures=tuple(Failure(draw_.uniform(1, 50)) for _ in range(5)),
    )
    run = serve_fleet(turns(10.0, seed=seed), plan, COST)
    for visit in run.visits:
        assert visit.arrival_seconds < visit.first_seconds
        if visit.failed:
            assert visit.last_seconds is None
        else:
            assert visit.first_seconds <= visit.last_seconds <= run.seconds
    assert 0 < sum(visit.failed for visit in run.visits) < len(run.visits) / 4
    assert sum(visit.tries > 1 for visit in run.visits) > 0, "who had no token yet was sent elsewhere"
    for replica in run.replicas:
        if replica.until_seconds is None:
            replica.engine.scheduler.pool.check()
            assert replica.unread_tokens == len(replica.visits) == replica.engine.scheduler.pool.used == 0
    assert run.most_replicas <= 6 and run.gpu_seconds <= run.most_replicas * run.seconds


def test_the_same_fleet_is_the_same_to_the_bit() -> None:
    plan = FleetPlan(replicas=3, blocks=900, router="prefix aware", failures=(Failure(20.0),))
    one, two = (serve_fleet(turns(), plan, COST) for _ in range(2))
    assert [vars(visit) for visit in one.visits] == [vars(visit) for visit in two.visits]


def test_a_conversation_that_comes_back_finds_its_cache() -> None:
    found = {}
    for router in ROUTERS:
        run = serve_fleet(turns(6.0), FleetPlan(replicas=4, blocks=8000, router=router), COST)
        found[router] = sum(visit.cached_tokens for visit in run.visits)
    shared = sum(turn.shared_tokens for turn in turns(6.0))
    assert found["prefix aware"] > 2 * found["round robin"]
    assert found["prefix aware"] > 0.9 * shared


def test_who_waits_has_more_replicas_started_and_spare_ones_go() -> None:
    crowd = [Turn(arrival_seconds=i / 4, conversation=i, prompt_tokens=900, output_tokens=300)
             for i in range(200)]
    later = [Turn(arrival_seconds=400.0, conversation=999, prompt_tokens=10, output_tokens=10)]
    scale = Autoscale(least=1, most=4, waiting_each=2.0, every_seconds=5.0)
    plan = FleetPlan(replicas=1, blocks=800, max_running=8, start_seconds=10.0, autoscale=scale)
    run = serve_fleet([*crowd, *later], plan, COST)
    alone = serve_fleet([*crowd, *later], FleetPlan(replicas=1, blocks=800, max_running=8), COST)
    assert run.most_replicas == 4 and len(run.replicas) == 4
    assert sum(replica.until_seconds is not None for replica in run.replicas) == 3
    began = min(visit.first_seconds for visit in run.visits if visit.replica > 0)
    assert began > 5.0 + 10.0, "the first look, and the start"
    slowest = max(visit.ttft_seconds for visit in run.visits)
    assert slowest < max(visit.ttft_seconds for visit in alone.visits) / 2


def test_what_makes_no_sense_is_refused() -> None:
    with pytest.raises(ValueError, match="router='nearest' is not known"):
        FleetPlan(replicas=1, blocks=1, router="nearest")
    with pytest.raises(ValueError, match="replicas=0; it must be at least 1"):
        FleetPlan(replicas=0, blocks=1)
    with pytest.raises(ValueError, match="autoscale keeps 2 to 3"):
        FleetPlan(replicas=1, blocks=1, autoscale=Autoscale(least=2, most=3))
    with pytest.raises(ValueError, match="request 0 may grow to .* the cache has 2"):
        serve_fleet(turns(), FleetPlan(replicas=1, blocks=2), COST)
