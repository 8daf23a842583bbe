"""Shares of a checkpoint on several ranks give the logits, and the tokens, of one process."""

from functools import partial

import pytest
import torch

from aiinfra.checkpoint.huggingface import HuggingFaceFolder
from aiinfra.errors import LoadError
from aiinfra.model import MoEConfig
from aiinfra.parallel.launch import launch
from aiinfra.parallel.share import RankFile, config_of_rank
from tests.checkpoint.small_models import reference_model
from tests.parallel import inference_ranks
from tests.parallel.inference_ranks import our_model
from tests.parallel.small import EXPERTS, small_config

PROMPTS = ["The sea is", "Once upon a time there was a king who", "1, 2, 3,"]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory):
    """A small random checkpoint of a family, as transformers writes it."""
    def of(case: str):
        path = tmp_path_factory.getbasetemp() / f"share {case}"
        if not path.exists():
            reference_model(case, intermediate_size=96).save_pretrained(path)
        return path
    return of


@pytest.mark.program
@pytest.mark.parametrize("case, ranks, packed", [
    ("llama tied", 2, False), ("llama untied, one KV head each", 3, True), ("qwen2 tied", 2, True),
    ("qwen3", 2, False), ("llama head size of its own", 2, False), ("mixtral", 2, False),
    ("qwen3 moe, norm, some dense", 2, False), ("deepseek v3", 2, False),
    ("deepseek v2 dense, biases", 2, True)])
def test_logits_are_those_of_one_process(case: str, ranks: int, packed: bool, folders) -> None:
    """With biases and norms of heads, packed and plain; 97 words, which no number of ranks divides."""
    mine, whole = launch(inference_ranks.logits, ranks, folders(case), packed)[0]
    assert mine < 0.65 * whole


def test_experts_that_cannot_be_divided_are_refused() -> None:
    with pytest.raises(ValueError, match="moe_intermediate_size=13 cannot be divided among 2"):
        config_of_rank(small_config(moe=MoEConfig(**EXPERTS | {"moe_intermediate_size": 13})), 0, 2)


@pytest.mark.model
def test_the_real_models_tokens_are_those_of_one_process(real_model: str) -> None:
    """Nine heads and three KV heads: three ranks. Greedy and drawn, through the paged engine."""
    expected = inference_ranks.answers_alone(real_model, PROMPTS)
    assert launch(inference_ranks.answers, 3, real_model, PROMPTS) == [expected] * 3


@pytest.mark.model
def test_a_number_of_ranks_that_does_not_divide_the_heads_is_refused(real_model: str) -> None:
    said = launch(inference_ranks.words, 2, real_model)
    wanted = "num_attention_heads=9 cannot be divided among 2 tensor-parallel ranks"
    assert all(wanted in words for words in said)


class Watched(HuggingFaceFolder):
    """A folder that notes how many values are read of it."""

    read = 0

    def read_into(self, name: str, out: torch.Tensor) -> None:
        self.read += out.numel()
        super().read_into(name, out)

    def read_slice(self, name: str, where: tuple[slice, ...], out: torch.Tensor) -> None:
        self.read += out.numel()
        super().read_slice(name, where, out)


def test_a_rank_reads_only_its_own_rows_and_columns(folders) -> None:
    source = Watched(folders("qwen2"))
    model = our_model(folders("qwen2"))
    norms = sum(p.numel() for name, p in model.named_parameters() if "norm" in name)
    values = sum(p.numel() for p in model.parameters())
    for rank in range(2):
        source.read = 0
        share = our_model(folders("qwen2"), share=lambda _: RankFile(source, rank, 2))
        assert source.read == sum(p.numel() for p in share.parameters())
        words = 2 * model.config.hidden_size * (rank == 0)           # 49 words of 97, and 48
        assert abs(source.read - norms - (values - norms) / 2) <= words + model.config.hidden_size


def test_the_shares_are_the_whole(folders) -> None:
    """Put together again, as PyTorch would cut them."""
    whole = our_model(folders("qwen2"))
    shares = [our_model(folders("qwen2"), share=partial(RankFile, rank=rank, ranks=2)) for rank in range(2)]
    config = whole.config
    rows = [config.num_attention_heads * config.head_dim] + 2 * [config.num_key_value_heads * config.head_dim]
    for leaf in ("weight", "bias"):
        expected = getattr(whole.layers[1].attention.qkv, leaf).split(rows)
        halves = [n // 2 for n in rows]
        pieces = [getattr(share.layers[1].attention.qkv, leaf).split(halves) for share in shares]
        for want, *both in zip(expected, *pieces):
            assert torch.equal(torch.cat(both), want)
    down = [share.layers[0].mlp.down.weight for share in shares]
    assert torch.equal(torch.cat(down, 1), whole.layers[0].mlp.down.weight)
    tables = [share.embed.weight for share in shares]
    assert torch.equal(torch.cat(tables), whole.embed.weight)


def test_a_file_that_is_not_as_its_config_says_is_refused(folders) -> None:
    source = HuggingFaceFolder(folders("llama tied"))
    source.shape = lambda name: (7, 7) if "o_proj" in name else HuggingFaceFolder.shape(source, name)
    with pytest.raises(LoadError, match="o_proj.weight"):
        our_model(folders("llama tied"), share=lambda _: RankFile(source, 0, 2))


def test_the_config_of_a_rank() -> None:
    mine = config_of_rank(small_config(vocab_size=47), 3, 4)
    assert (mine.num_attention_heads, mine.num_key_value_heads, mine.vocab_size) == (2, 1, 11)
