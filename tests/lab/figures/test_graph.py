"""Boxes and arrows: each box once, right of what it was made of, none on another; PyTorch's log likewise."""

from types import SimpleNamespace

import pytest
import torch
from matplotlib.patches import Rectangle

from aiinfra.lab.figures.graph import GraphNode, draw, torch_graph, value_graph


def boxes(figure) -> list[Rectangle]:
    return [patch for patch in figure.axes[0].patches if isinstance(patch, Rectangle)]


def texts(figure) -> list[str]:
    return [text.get_text() for text in figure.axes[0].texts if text.get_text()]


def number(data, name="", op="", parents=(), grad=0.0) -> SimpleNamespace:
    return SimpleNamespace(data=data, name=name, op=op, parents=tuple(parents), grad=grad)


def test_a_value_stands_in_one_box_with_its_value_and_its_gradient():
    x = number(3.0, name="x", grad=6.0)
    square = number(9.0, op="*", parents=(x, x), grad=1.0)
    figure = value_graph(square, "a square")
    assert len(boxes(figure)) == 2 and texts(figure) == ["*", "9", "1", "x", "3", "6"]
    assert texts(value_graph(square, gradients=False)) == ["*", "9", "x", "3"]


def test_each_box_is_right_of_what_it_was_made_of_and_on_no_other():
    parents = [(), (), (), (0, 1), (3, 2, 0), (3, 4), (5, 4, 1)]
    nodes = [GraphNode(f"box {i}", made_of) for i, made_of in enumerate(parents)]
    drawn = boxes(draw(nodes))
    for node, box in zip(nodes, drawn, strict=True):
        assert all(drawn[parent].get_x() + box.get_width() < box.get_x() for parent in node.parents)
    for i, one in enumerate(drawn):
        for other in drawn[i + 1:]:
            apart = abs(one.get_x() - other.get_x()) >= one.get_width()
            assert apart or abs(one.get_y() - other.get_y()) >= one.get_height()


def test_the_log_of_pytorch_has_its_names_and_ours():
    w = torch.tensor([1.0, 2.0], requires_grad=True)
    figure = torch_graph((w * w + 1).sum(), {"w": w})
    assert texts(figure) == ["Sum", "Add", "Mul", "w"]


def test_nothing_recorded_is_said():
    with pytest.raises(ValueError, match="requires_grad=True"):
        torch_graph(torch.ones(2).sum(), {})


def test_what_cannot_be_read_is_not_drawn():
    chain = number(1.0, name="x")
    for _ in range(100):
        chain = number(1.0, op="exp", parents=(chain,))
    with pytest.raises(ValueError, match="101 boxes; at most 60"):
        value_graph(chain)
