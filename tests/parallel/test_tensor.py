"""Some heads, some of the feed-forward, some words on each rank: together they are one process."""

import pytest

from aiinfra.model import MoEConfig
from aiinfra.model.mla_config import MLAConfig
from aiinfra.parallel.launch import RankFailed, launch
from tests.parallel import tensor_ranks
from tests.parallel.small import EXPERTS, LATENT, VARIANTS, small_config


@pytest.mark.program
@pytest.mark.parametrize("sequence", [False, True])
@pytest.mark.parametrize("ranks, variants", [(2, list(VARIANTS)), (4, ["tied", "biases and qk norm"])])
def test_loss_gradients_and_logits_are_those_of_one_process(ranks: int, variants: list[str],
                                                            sequence: bool) -> None:
    """Tied and untied, with biases, with norms of heads; 23 tokens, which no number of ranks divides."""
    launch(tensor_ranks.equal_one_process, ranks, variants, sequence)


@pytest.mark.program
@pytest.mark.parametrize("sequence", [False, True])
def test_pytorchs_own_plan_gives_the_same(sequence: bool) -> None:
    """Its embedding, its last layer and its `loss_parallel` included."""
    launch(tensor_ranks.as_pytorch_does, 2, sequence)


@pytest.mark.program
@pytest.mark.parametrize("variant", ["tied", "biases and qk norm"])
def test_parameters_after_three_steps_are_those_of_one_process(variant: str) -> None:
    """Accumulation inside. What every rank has whole never drifts apart, not by a bit."""
    copies = launch(tensor_ranks.steps, 2, variant, True)[0]
    norms = {"norm.weight", "layers.1.mlp_norm.weight", "layers.0.attention_norm.weight"}
    assert norms <= set(copies)


@pytest.mark.program
def test_forgetting_to_sum_a_norms_gradient_would_show() -> None:
    """Megatron-LM #7452 and #1446: nothing fails, the loss is right, and each rank steps its own way."""
    lacking = launch(tensor_ranks.forgotten_sums, 2, "qk norm")[0]
    assert {"layers.0.attention.q_norm.weight", "layers.0.attention.k_norm.weight"} <= set(lacking)
    assert min(lacking.values()) > 0.1


@pytest.mark.program
@pytest.mark.parametrize("ranks, variant", [(2, "plain"), (4, "tied")])
def test_fsdp_around_a_cut_model(ranks: int, variant: str) -> None:
    """On 4 ranks also with words that cannot be divided evenly, by neither dimension."""
    words = 48 if ranks == 2 else 47
    launch(tensor_ranks.two_dimensions, ranks, variant, variant == "plain", changes={"vocab_size": words})


@pytest.mark.program
def test_a_rank_has_its_share() -> None:
    mine, all_values = launch(tensor_ranks.share, 4, "plain")[0]
    norms = 5 * small_config().hidden_size
    assert mine - norms == (all_values - norms) / 4


@pytest.mark.program
@pytest.mark.parametrize("changes, said", [
    ({"num_attention_heads": 6, "num_key_value_heads": 2}, "num_key_value_heads=2 cannot be divided among 3"),
    ({"num_attention_heads": 8, "num_key_value_heads": 4}, "num_attention_heads=8 cannot be divided among 3"),
    ({"num_attention_heads": 6, "num_key_value_heads": 3}, "intermediate_size=32 cannot be divided among 3"),
    ({"num_attention_heads": 6, "num_key_value_heads": 3, "intermediate_size": 33, "vocab_size": 4},
     "a vocabulary of 4 words, 2 a rank, leaves nothing"),
])
def test_what_cannot_be_divided_is_refused_with_the_figures(changes: dict, said: str) -> None:
    assert all(said in words for words in launch(tensor_ranks.refused, 3, changes))


@pytest.mark.program
@pytest.mark.parametrize("sequence", [False, True])
def test_in_bfloat16_ranks_are_as_exact_as_one_process(sequence: bool) -> None:
    for ranks, alone in launch(tensor_ranks.in_bfloat16, 2, sequence):
        assert ranks < 2 * alone + 1e-2


@pytest.mark.program
@pytest.mark.parametrize("policy, sequence", [("block", True), ("operation", False)])
def test_a_forward_pass_may_be_done_again(policy: str, sequence: bool) -> None:
    launch(tensor_ranks.done_again, 2, policy, sequence)


@pytest.mark.program
@pytest.mark.parametrize("sequence, rank", [(False, 7), (True, 7), (True, None)])
def test_latent_attention_is_cut_by_heads(sequence: bool, rank: int | None) -> None:
    """What all ranks compute has gradients that are parts: they are summed."""
    latent = MLAConfig(**LATENT | {"q_lora_rank": rank})
    changes = {"mla": latent, "num_key_value_heads": 8, "head_dim": 2, "out_bias": True}
    launch(tensor_ranks.equal_one_process, 2, ["tied"], sequence, changes=changes)


@pytest.mark.program
def test_whole_weights_count_once_in_the_norm() -> None:
    """TransformerEngine (ROCm) #715: the latents' matrices counted by every rank, a norm 1.4 times too
    large."""
    latent = MLAConfig(**LATENT)
    changes = {"mla": latent, "num_key_value_heads": 8, "head_dim": 2}
    norms = launch(tensor_ranks.norm_of_gradients, 4, changes)
    for found, expected, counted_by_all in norms:
        assert abs(found - expected) < 1e-12 * expected
        assert counted_by_all > 1.1 * expected


@pytest.mark.program
def test_a_table_that_was_parted_is_refused() -> None:
    """verl #7834: `to_empty` gives a tied model two tables, and nobody says so."""
    assert all("two tables here" in words for words in launch(tensor_ranks.parted, 2))


@pytest.mark.program
def test_experts_are_computed_by_every_rank_and_not_over_parts_of_a_sequence() -> None:
    changes = {"moe": MoEConfig(**EXPERTS)}
    launch(tensor_ranks.equal_one_process, 2, ["tied"], False, changes=changes)
    assert all("its router counts all tokens" in words
               for words in launch(tensor_ranks.refused, 2, changes, sequence=True))


@pytest.mark.program
@pytest.mark.parametrize("id_", [-1, 48])
def test_a_word_that_nobody_has_is_an_error(id_: int) -> None:
    with pytest.raises(RankFailed, match="IndexError"):
        launch(tensor_ranks.id_outside, 2, id_)


@pytest.mark.program
def test_a_vocabulary_that_the_ranks_do_not_divide() -> None:
    """The last rank has fewer words."""
    changes = {"vocab_size": 47}
    launch(tensor_ranks.equal_one_process, 4, ["tied"], True, changes=changes)
