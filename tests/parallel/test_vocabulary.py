"""Cross-entropy over words that lie on several ranks is cross-entropy."""

import pytest
import torch

from aiinfra.parallel.launch import launch
from aiinfra.parallel.vocabulary import Words
from tests.parallel import tensor_ranks


@pytest.mark.program
@pytest.mark.parametrize("ranks, vocabulary, rows", [(2, 10, 700), (4, 101, 9)])
def test_loss_and_gradients_of_hidden_states(ranks: int, vocabulary: int, rows: int) -> None:
    """More rows than are held at once; a vocabulary that the ranks do not divide."""
    launch(tensor_ranks.cross_entropy, ranks, vocabulary, torch.float64, rows)


@pytest.mark.program
def test_in_bfloat16_the_sums_are_float32() -> None:
    launch(tensor_ranks.cross_entropy, 2, 64, torch.bfloat16, 300)


@pytest.mark.parametrize("vocabulary, ranks", [(10, 2), (101, 4), (48, 3), (5, 5)])
def test_the_ranks_share_all_words(vocabulary: int, ranks: int) -> None:
    shares = [Words.of_rank(rank, ranks, vocabulary) for rank in range(ranks)]
    words = [word for share in shares for word in range(share.first, share.first + share.count)]
    assert words == list(range(vocabulary))
    chunks = torch.arange(vocabulary).chunk(ranks)
    assert [len(chunk) for chunk in chunks] == [share.count for share in shares]


def test_a_rank_without_words_is_refused() -> None:
    with pytest.raises(ValueError, match="5 words, 2 a rank, leaves nothing for the last of 4"):
        Words.of_rank(0, 4, 5)
