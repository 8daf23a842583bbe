"""Maps of attention: a square for each head, with the tokens along both sides."""

import pytest
import torch

from aiinfra.lab.figures.attention import attention_maps

TOKENS = ["The", " cat", "\n", " a$b", " incomprehensible"]


def labels(axis) -> list[str]:
    return [label.get_text() for label in axis.get_ticklabels()]


def test_each_map_shows_its_weights_and_tokens():
    one, two = torch.eye(5), torch.full((5, 5), 0.2)
    figure = attention_maps({"itself": one, "all": two}, TOKENS, "two heads")
    left, right = figure.axes
    assert [ax.get_title(loc="left") for ax in figure.axes] == ["itself", "all"]
    assert figure.get_suptitle() == "two heads"
    assert (left.images[0].get_array() == one.numpy()).all() and right.images[0].get_clim() == (0, 1)
    assert labels(left.yaxis) == labels(left.xaxis) == ["The", "cat", "␣", r"a\$b", "incomprehen…"]
    assert labels(right.yaxis) == []


def test_weights_of_other_tokens_are_refused():
    with pytest.raises(ValueError, match=r"'head' is \[4, 4\]; there are 5 tokens"):
        attention_maps({"head": torch.eye(4)}, TOKENS)
