"""Models by name: what a planner needs of them, from their published config.json. No weights, no download.

    read_model("deepseek-v3")      a name of MODELS
    read_model("my/folder")        any folder with a config.json, a .json or a .gguf file

Invariant: the parameters that a shape adds up to are the published ones (a test says so). Notebook 18.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aiinfra.checkpoint.huggingface_config import config_from_json
from aiinfra.checkpoint.shape import read_config
from aiinfra.errors import LoadError, nearest, reading
from aiinfra.files import read_json
from aiinfra.model import ModelConfig, MoEConfig


@dataclass(frozen=True)
class ServedModel:
    """A model's shape, and what a decoder of the plain kind does not say. window: tokens that attention sees
    in `windowed_layers` of its layers; in the others it sees all."""

    name: str
    config: ModelConfig
    source: str
    billions: float | None = None            # published parameters, and those that a token takes
    active_billions: float | None = None
    window: int = 0
    windowed_layers: int = 0


# Qwen3's context is that with YaRN, as its cards state.
_QWEN3 = {"max_position_embeddings": 131072, "rms_norm_eps": 1e-6, "rope_theta": 1e6, "head_dim": 128,
          "tie_word_embeddings": False, "vocab_size": 151936}
_QWEN3_MOE = {**_QWEN3, "architectures": ["Qwen3MoeForCausalLM"], "num_experts": 128,
              "num_experts_per_tok": 8, "norm_topk_prob": True, "num_key_value_heads": 4}
_LLAMA = {"architectures": ["LlamaForCausalLM"], "max_position_embeddings": 131072, "rms_norm_eps": 1e-5,
          "rope_theta": 5e5, "vocab_size": 128256, "num_key_value_heads": 8, "tie_word_embeddings": False}
_DEEPSEEK = {
    "architectures": ["DeepseekV3ForCausalLM"], "hidden_size": 7168, "num_hidden_layers": 61,
    "num_attention_heads": 128, "num_key_value_heads": 128, "intermediate_size": 18432,
    "moe_intermediate_size": 2048, "n_routed_experts": 256, "n_shared_experts": 1, "num_experts_per_tok": 8,
    "n_group": 8, "topk_group": 4, "first_k_dense_replace": 3, "routed_scaling_factor": 2.5,
    "norm_topk_prob": True, "scoring_func": "sigmoid", "kv_lora_rank": 512, "q_lora_rank": 1536,
    "qk_nope_head_dim": 128, "qk_rope_head_dim": 64, "v_head_dim": 128, "max_position_embeddings": 163840,
    "rms_norm_eps": 1e-6, "rope_theta": 10000, "vocab_size": 129280, "tie_word_embeddings": False,
    "rope_scaling": None}


def _known(name: str, raw: dict[str, Any], source: str, billions: float, active: float) -> ServedModel:
    config = config_from_json(raw, f"{name}/config.json")
    return ServedModel(name=name, config=config, source=source, billions=billions, active_billions=active)


def _gpt_oss() -> ServedModel:
    """Every second layer sees 128 tokens. Its sinks and the experts' biases, 0.04 % of it, are left out."""
    experts = MoEConfig(num_experts=128, num_experts_per_tok=4, moe_intermediate_size=2880)
    shape = ModelConfig(
        vocab_size=201088,
        hidden_size=2880,
        num_hidden_layers=36,
        num_attention_heads=64,
        num_key_value_heads=8,
        head_dim=64,
        intermediate_size=2880,
        max_position_embeddings=131072,
        qkv_bias=True,
        out_bias=True,
        moe=experts)
    return ServedModel("gpt-oss-120b", shape, source="config.json; OpenAI 2025, arXiv 2508.10925",
                       billions=116.8, active_billions=5.1, window=128, windowed_layers=18)


_V3 = "config.json; DeepSeek-AI 2024, arXiv 2412.19437"
_QWEN = "config.json; Qwen team 2025, arXiv 2505.09388"
_LLAMA3 = "config.json; Llama team 2024, arXiv 2407.21783"
MODELS = {model.name: model for model in (
    _known("deepseek-v3", _DEEPSEEK, _V3, billions=671, active=37),
    _known("deepseek-r1", _DEEPSEEK, _V3, billions=671, active=37),
    _known("qwen3-235b-a22b", _QWEN3_MOE | {
        "hidden_size": 4096, "num_hidden_layers": 94, "num_attention_heads": 64, "intermediate_size": 12288,
        "moe_intermediate_size": 1536}, _QWEN, billions=235, active=22),
    _known("qwen3-30b-a3b", _QWEN3_MOE | {
        "hidden_size": 2048, "num_hidden_layers": 48, "num_attention_heads": 32, "intermediate_size": 6144,
        "moe_intermediate_size": 768}, _QWEN, billions=30.5, active=3.3),
    _known("qwen3-32b", _QWEN3 | {
        "architectures": ["Qwen3ForCausalLM"], "hidden_size": 5120, "num_hidden_layers": 64,
        "num_attention_heads": 64, "num_key_value_heads": 8, "intermediate_size": 25600},
        _QWEN, billions=32.8, active=32.8),
    _known("qwen3-8b", _QWEN3 | {
        "architectures": ["Qwen3ForCausalLM"], "hidden_size": 4096, "num_hidden_layers": 36,
        "num_attention_heads": 32, "num_key_value_heads": 8, "intermediate_size": 12288},
        _QWEN, billions=8.2, active=8.2),
    _known("llama-3.1-8b", _LLAMA | {
        "hidden_size": 4096, "num_hidden_layers": 32, "num_attention_heads": 32,
        "intermediate_size": 14336}, _LLAMA3, billions=8.03, active=8.03),
    _known("llama-3.1-70b", _LLAMA | {
        "hidden_size": 8192, "num_hidden_layers": 80, "num_attention_heads": 64,
        "intermediate_size": 28672}, _LLAMA3, billions=70.6, active=70.6),
    _gpt_oss(),
)}


def read_model(name_or_path: str | Path) -> ServedModel:
    """A model by name, or by its files. Raises LoadError for what is neither."""
    name = str(name_or_path).lower()
    if name in MODELS:
        return MODELS[name]
    if not Path(name_or_path).expanduser().exists() and "/" not in name and "smollm" not in name:
        raise LoadError(f"model={str(name_or_path)!r} is not known.{nearest(name, MODELS)} Known: "
                        f"{', '.join(MODELS)}; or give a folder with a config.json.")
    return ServedModel(Path(name_or_path).name, _config_of(name_or_path), source="its config.json")


def _config_of(name_or_path: str | Path) -> ModelConfig:
    """As `read_config`, but weights may be quantized: a plan is told their precision."""
    path = Path(name_or_path).expanduser()
    if path.is_dir():
        path = path / "config.json"
    if path.suffix != ".json" or not path.exists():
        return read_config(name_or_path)
    label = f"{path.absolute().parent.name}/{path.name}"
    raw = read_json(path)
    raw.pop("quantization_config", None)
    with reading(label):
        return config_from_json(raw, label)
