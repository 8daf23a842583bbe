"""The pictures of the puzzles: nothing is cut off, and each has words for who cannot see it."""

import io

import numpy as np
import pytest
from PIL import Image

from puzzles.catalogue import PUZZLES
from puzzles.hints import picture


@pytest.mark.parametrize("name", PUZZLES)
def test_nothing_reaches_over_the_edge_and_there_are_words(name):
    png, shown = picture(name)._repr_png_()
    pixels = np.asarray(Image.open(io.BytesIO(png)).convert("L"))
    for edge in (pixels[:, -4:], pixels[:, :4], pixels[:3], pixels[-3:]):
        assert (edge == 255).all(), "something is cut off"
    assert len(shown["alt"]) > 40 and shown["alt"].startswith(f"Picture of {PUZZLES[name].title}: ")
