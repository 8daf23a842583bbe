from aiinfra.lab import style
from aiinfra.lab.figures.memory import draw_memory
from aiinfra.perf.memory import predict_memory
from tests.train.stories import tiny_config


def test_areas_add_up_to_the_peak_and_phases_are_named() -> None:
    plan = predict_memory(tiny_config(), [64] * 4)
    fig, ax = style.axes("", "[MB]")
    draw_memory(ax, plan.moments, budget=plan.peak)
    heights = [area.get_paths()[0].vertices[:, 1].max() for area in ax.collections]
    assert abs(max(heights) - plan.peak / 1e6) < 1e-6
    words = [text.get_text() for text in ax.texts]
    assert f"{plan.peak / 1e6:,.0f} MB" in words and {"forward", "backward"} <= set(words)
    kinds = {kind for moment in plan.moments for kind in moment.by_kind}
    assert set(ax.get_legend_handles_labels()[1]) == kinds
