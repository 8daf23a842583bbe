"""The block map draws what the block tables say: owners, filling, and what is cached."""

from matplotlib.patches import Rectangle

from aiinfra.engine.blocks import BlockPool
from aiinfra.engine.request import Request
from aiinfra.engine.scheduler import Scheduler
from aiinfra.lab.figures.blockmap import BlockMap
from aiinfra.plan.simulate import advance


def recorded() -> tuple[BlockMap, Scheduler]:
    scheduler = Scheduler(BlockPool(6, 4), token_budget=32, max_running=4)
    film = BlockMap(scheduler.pool, columns=3)
    parent, child = Request("a", list(range(6)), 4), Request("b", list(range(6)), 4)
    scheduler.add(parent)
    advance(scheduler)
    film.record(scheduler.running, "alone")
    scheduler.fork(parent, child)
    film.record(scheduler.running, "forked")
    scheduler.finish(parent)
    scheduler.finish(child)
    film.record(scheduler.running)
    return film, scheduler


def test_frames_say_who_owns_what():
    film, _ = recorded()
    alone, forked, after = film.frames
    assert [(b.owners, b.filled) for b in alone[:3]] == [(("a",), 4), (("a",), 2), ((), 0)]
    assert [b.owners for b in forked[:3]] == [("a", "b"), ("a", "b"), ()]
    assert [(b.owners, b.cached, b.last) for b in after[:3]] == [
        ((), True, "a"),
        ((), False, "a"),
        ((), False, ""),
    ]


def test_a_cell_is_coloured_as_far_as_it_is_filled_and_hatched_when_shared():
    film, _ = recorded()
    cells = [p for p in film.draw(1).axes[0].patches if isinstance(p, Rectangle)]
    assert [p.get_width() for p in cells if p.get_hatch()] == [1.0, 0.5]
    assert len(film.draw(2).axes[0].texts) == 2                      # one cached block, and the key


def test_a_strip_has_a_panel_a_frame():
    film, _ = recorded()
    titles = [ax.get_title("left") or ax.get_title() for ax in film.strip([0, 1, 2], across=2).axes]
    assert titles == ["0: alone", "1: forked", "2", ""]
