"""Judges and hints of notebook 11, the KV cache. Models are tiny and random: an answer takes milliseconds."""

import math

import torch
from torch import Tensor

from aiinfra.lab.exercise import Wrong, close, exercise, require
from aiinfra.lab.judging import EveryTensor, about, explain, same
from aiinfra.model import KVCache, ModelConfig, Transformer

_LLAMA2 = {"num_hidden_layers": 32, "hidden_size": 4096, "num_attention_heads": 32}
_LLAMA3 = {
    "num_hidden_layers": 80,
    "hidden_size": 8192,
    "num_attention_heads": 64,
    "num_key_value_heads": 8,
}
_QWEN3 = {
    "num_hidden_layers": 28,
    "hidden_size": 1024,
    "num_attention_heads": 16,
    "num_key_value_heads": 8,
    "head_dim": 128,
}
_DEEPSEEK = {
    "num_hidden_layers": 61,
    "hidden_size": 7168,
    "num_attention_heads": 128,
    "num_key_value_heads": 128,
    "kv_lora_rank": 512,
    "qk_rope_head_dim": 64,
    "qk_nope_head_dim": 128,
    "v_head_dim": 128,
}


@exercise("11.cache_bytes", hints=(
    "What is kept for one token? Two vectors a layer, and each has a length that three keys of the config "
    "decide.",
    "2 · layers · KV heads · head size · bytes. Older configs leave keys out: no num_key_value_heads means "
    "that every query head has its own, no head_dim means hidden_size / num_attention_heads. MLA has "
    "kv_lora_rank.",
    "If \"kv_lora_rank\" is in the config: layers · (kv_lora_rank + qk_rope_head_dim) · bytes, without the "
    "2. Otherwise use config.get(\"num_key_value_heads\", heads) and config.get(\"head_dim\", hidden_size // "
    "heads).",
))
def cache_bytes(count):
    _judge_heads(count, "Llama-3-70B", _LLAMA3, 2, 327_680)
    _judge_heads(count, "Llama-2-7B", _LLAMA2, 2, 524_288)
    _judge_heads(count, "Qwen3-0.6B", _QWEN3, 2, 114_688)
    _judge_heads(count, "Llama-3-70B in fp8", _LLAMA3, 1, 163_840)
    got = count(dict(_DEEPSEEK), 2)
    if same(got, 2 * 70_272):
        raise Wrong("DeepSeek-V3: keys AND values are rebuilt from the one compressed vector, so there is no "
                    "factor 2.")
    if same(got, 61 * 512 * 2):
        raise Wrong("DeepSeek-V3: the rotary part of the key, qk_rope_head_dim values, is kept beside the "
                    "compressed vector.")
    require(not same(got, 2 * 61 * 128 * 56 * 2),
            "DeepSeek-V3: kv_lora_rank in the config says that it keeps a compressed vector; its 128 heads' "
            "own keys and values are never stored.")
    close(got, 70_272, "bytes per token of DeepSeek-V3")
    return ("One function for MHA, GQA, MQA and MLA. DeepSeek-V3, 84 times the size of Llama-3-8B, keeps "
            "about half as much.")


def _judge_heads(count, name: str, config: dict[str, int], size: int, want: int) -> None:
    """The bytes of a token of a model that keeps keys and values of its heads."""
    got = count(dict(config), size)
    if same(got, want):
        return
    layers, heads = config["num_hidden_layers"], config["num_attention_heads"]
    if same(got, want / layers):
        raise Wrong(f"{name}: that is one layer. Each of its {layers} keeps keys and values of its own.")
    if "head_dim" in config:
        width, share = config["head_dim"], config["hidden_size"] // heads
        require(not same(got, want / width * share),
                f"{name}: its heads are {width} wide, although hidden_size / heads is {share}: where "
                "head_dim is given, it holds.")
    if same(got, want / 2):
        raise Wrong(f"{name}: exactly half. Both keys and values are kept.")
    kept = config.get("num_key_value_heads", heads)
    if same(got, want * heads / kept):
        raise Wrong(f"{name}: you counted the {heads} query heads. Queries are not kept; only KV heads are.")
    close(got, want, f"bytes per token of {name}")


class _Watched(Transformer):
    """A small random model that writes down which tokens it was run on, and at which positions."""

    def __init__(self) -> None:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(11)
            config = ModelConfig(
                vocab_size=97,
                hidden_size=32,
                num_hidden_layers=2,
                num_attention_heads=4,
                num_key_value_heads=2,
                head_dim=8,
                intermediate_size=64,
                max_position_embeddings=64,
            )
            super().__init__(config)
            self.init_weights(std=0.4)           # far from uniform attention, so that positions matter
        self.runs: list[tuple[list[int], list[int] | None]] = []

    def hidden(self, tokens, positions=None, kv=None):
        places = None
        if positions is not None:
            places = torch.as_tensor(positions).flatten().tolist()
        self.runs.append((tokens.flatten().tolist(), places))
        return super().hidden(tokens, positions, kv)

    def continuation(self, tokens: list[int], count: int) -> list[int]:
        """The right answer, without a cache and without a note in `runs`."""
        made: list[int] = []
        for _ in range(count):
            so_far = torch.tensor([tokens + made])
            logits = self.lm_head(super().hidden(so_far)[0, -1])
            made.append(int(logits.argmax()))
        return made


@exercise("11.second_turn", hints=(
    "Which tokens of the conversation are not in the cache yet? In the first turn all of them; then one at a "
    "time; in the second turn the message, and one more.",
    "`cache.length` says how many are in. So the tokens to run are always (tokens + made)[cache.length:], "
    "and they stand at positions cache.length, cache.length + 1, …: the model cannot know, and None means 0 "
    "… T-1.",
    "count times: new = (tokens + made)[cache.length:]; positions = torch.arange(cache.length, cache.length "
    "+ len(new)); logits = model(torch.tensor([new]), positions, cache); made.append(int(logits[0, "
    "-1].argmax())).",
))
def second_turn(turn):
    model = _Watched().eval()
    cache = KVCache(model.config, 60)
    conversation: list[int] = []
    turns = (
        ([5, 17, 3, 88, 41, 2, 60], 6),
        ([33, 12, 9], 5),
        ([70], 4),
        ([8, 8], 1),
    )
    with torch.inference_mode():
        for message, count in turns:
            conversation += message
            conversation += _judge_turn(turn, model, cache, conversation, count)
    return (f"Four turns, {len(conversation)} tokens: {cache.length} of them are in the cache, each run "
            "once, where it stands.")


def _judge_turn(turn, model: _Watched, cache: KVCache, conversation: list[int], count: int) -> list[int]:
    """The `count` tokens that the learner's turn makes, if they are right and each token was run once."""
    model.runs.clear()
    start = cache.length
    got = turn(model, cache, list(conversation), count)
    require(isinstance(got, list | tuple),
            f"you returned a {type(got).__name__}; a list is wanted, of {count} token ids.")
    require(len(got) == count, f"return a list of the {count} new token ids, without what came before.")
    made = [int(token) for token in got]
    require(model.runs and cache.length > start,
            f"right or not, the cache you were handed still holds {cache.length} of the conversation's "
            f"{len(conversation) + count} tokens: the next turn would have to run everything again.")
    _judge_runs(model.runs, conversation + made, start)
    want = model.continuation(conversation, count)
    require(made == want, f"after {conversation} you have {made}; {want} is wanted. Of several rows of "
                          "logits only "
            "the last one says what comes next.")
    return made


def _judge_runs(runs: list[tuple[list[int], list[int] | None]], conversation: list[int], start: int) -> None:
    """Each call must go on where the last one ended, with the right tokens at the right places."""
    total = sum(len(tokens) for tokens, _ in runs)
    needed = len(conversation) - 1 - start
    require(total <= needed + 1, f"{start} tokens are in the cache and {needed} are to be run, each once; "
                                 "you ran "
            f"{total}. What is in the cache must not be run again.")
    for tokens, positions in runs:
        end = start + len(tokens)
        if tokens != conversation[start:end]:
            raise Wrong(f"token {conversation[start]}, which stands at place {start}, was never run. The "
                        "last token of a reply is made, but not run: it is in the text and not yet in the "
                        "cache.")
        if positions is None and start:
            raise Wrong(f"without `positions` the token that stands at {start} was run at position 0. No "
                        "error, a fluent text, and a wrong one: the cache does not tell the model how many "
                        "came before.")
        if positions is not None:
            _judge_places(positions, list(range(start, end)))
        start = end


def _judge_places(positions: list[int], right: list[int]) -> None:
    if positions == right:
        return
    if len(right) == 1:
        where = f"the token that stands at {right[0]} was run at {positions[0]}"
    else:
        where = (f"{len(right)} tokens that stand at {right[0]}…{right[-1]} were run at "
                 f"{positions[0]}…{positions[-1]}")
    raise Wrong(f"{where}: a token's position is the number of tokens before it.")


@exercise("11.longest_context", hints=(
    "Memory holds the weights once, and a cache for every user. What is left for one of them?",
    "(memory − weights) / users / bytes per token, rounded down. What if that is negative, or more than the "
    "model can read?",
    "left = (memory_bytes − weight_bytes) // (users · bytes_per_token), then max(0, min(left, limit)).",
))
def longest_context(longest):
    gpu, weights, token = 80_000_000_000, 16_060_000_000, 131_072
    cases = (
        (4, 1_000_000, 121_955),
        (64, 131_072, 7_622),
        (1, 8_192, 8_192),
    )
    for users, limit, want in cases:
        got = longest(gpu, weights, token, users, limit)
        if users > 1:
            without_weights = gpu // (users * token)
            require(not same(got, min(limit, without_weights)),
                    "the weights live in the same memory: what is left for caches is less.")
            for_one = (gpu - weights) // token
            require(not same(got, min(limit, for_one)),
                    f"{users} users share what is left; you gave all of it to one.")
        require(same(got, want) or limit != want or float(got) <= want,
                f"{got:,} tokens would fit, but the model was made for {limit:,} positions.")
        require(float(got) == int(got), f"{got} is not a whole number of tokens: half a token has no use.")
        close(got, want, f"{users} users, limit {limit:,}")
    got = longest(80_000_000_000, 141_200_000_000, 327_680, 1, 8_192)
    require(same(got, 0),
            f"70B parameters in bf16 do not fit into 80 GB at all, and you promise {got:,} tokens; 0 is "
            "wanted.")
    return ("Llama-3-8B in the 80 GB of an H100's data sheet: 64 users get 7,622 tokens each. Sixty-four is "
            "not many users.")


class _Made(EveryTensor):
    """Watches for keys and values: one large tensor, a matrix of `tokens` rows of `size`, many rows."""

    def __init__(self, tokens: int, size: int, latent: int) -> None:
        super().__init__()
        self.tokens, self.size, self.latent = tokens, size, latent
        self.values, self.shape = 0, []          # the largest tensor that stood in memory
        self.matrix: list[int] = []              # the shape of a head's keys or values, if they were made
        self.small = 0                           # values in all vectors of a key's length, but not in weights

    def look(self, tensor: Tensor) -> None:
        values = tensor.untyped_storage().nbytes() // tensor.element_size()
        if values > self.values:
            self.values, self.shape = values, list(tensor.shape)
        if self.size not in tensor.shape:
            return
        if self.tokens in tensor.shape:
            self.matrix = list(tensor.shape)
        if self.latent not in tensor.shape:
            self.small += tensor.numel()


@exercise("11.attend_latent", hints=(
    "A score is q · (W c). Nobody says that W c has to be computed first.",
    "q · (W c) = (Wᵀ q) · c: turn the ONE query into the latent space instead of S keys out of it. The same "
    "for the values: Σ p (W c) = W (Σ p c), so mix the latents first and expand the one result.",
    "q_c = einsum('hd,hdr->hr', q, w_k); p = (q_c @ c.T / Dh**0.5).softmax(-1); mixed = p @ c; "
    "return einsum('hr,hdr->hd', mixed, w_v).",
))
def attend_latent(attend):
    random = torch.Generator().manual_seed(4)

    def drawn(*shape: int) -> Tensor:
        return torch.randn(shape, generator=random, dtype=torch.float64)

    # The sizes are all different, so that a size tells what it counts.
    for H, Dh, R, S in ((8, 16, 12, 300), (3, 8, 24, 200)):
        q, c = drawn(H, Dh), drawn(S, R)
        w_k, w_v = drawn(H, Dh, R) / R**0.5, drawn(H, Dh, R)
        made = _Made(S, Dh, R)
        with made:
            got = attend(q, c, w_k, w_v)
        scores = torch.einsum("hd,hdr,sr->hs", q, w_k, c)
        values = torch.einsum("hdr,sr->hsd", w_v, c)
        want = _mix(scores / math.sqrt(Dh), values)
        if isinstance(got, Tensor) and got.shape == want.shape and not torch.allclose(got, want):
            unscaled = _mix(scores, values)
            require(not torch.allclose(got, unscaled),
                    "the scores are not scaled: divide them by √Dh before the softmax.")
            by_latent = _mix(scores / math.sqrt(R), values)
            require(not torch.allclose(got, by_latent),
                    f"scaled by √{R}, the latent's length. The dot product is still one of {Dh} numbers, "
                    "only written differently: divide by √Dh.")
        close(got, want, "the output [H, Dh]")
        _judge_made(made, heads=H)
    return ("Exact, and no key or value of an old token was ever made: this is how DeepSeek's decoding reads "
            "576 values a token.")


def _mix(scores: Tensor, values: Tensor) -> Tensor:
    return torch.einsum("hs,hsd->hd", scores.softmax(-1), values)


def _judge_made(made: _Made, heads: int) -> None:
    """Raise Wrong if keys or values of old tokens were rebuilt on the way."""
    tokens = made.tokens
    way = "Move the matrix to the query, and for the values behind the mixture."
    require(made.values <= 1.5 * tokens * max(heads, made.latent),
            f"right, but you made a tensor of {made.values:,} values, shape {made.shape}: with the keys or "
            f"the values of all {tokens} tokens rebuilt, nothing was saved. {way}")
    require(not made.matrix,
            f"right, but a tensor of shape {made.matrix} is {tokens} keys or values of a head. One head at a "
            f"time, all of them are still made. {way}")
    require(made.small < tokens * heads * made.size / 2,
            f"right, but your vectors of {made.size} numbers add up to {made.small:,}: keys or values of "
            f"{tokens} tokens, made one by one. {way}")


_MACHINES = {                                  # name: FLOP/s, bytes/s, bytes of a weight
    "H20, int4 weights, bf16 arithmetic": (148e12, 4e12, 0.5),
    "H100, fp8": (1979e12, 3.35e12, 1.0),
    "H100, bf16": (989e12, 3.35e12, 2.0),
    "H20, bf16": (148e12, 4e12, 2.0),
}


@exercise("11.turning_point", hints=(
    "Compute-bound means: the arithmetic for T tokens takes longer than reading the weights once. Write both "
    "times down for ONE weight.",
    "One weight: read once, bytes_per_weight / bandwidth seconds; used for T tokens, two FLOPs each: 2·T / "
    "peak seconds.",
    "Set 2·T / peak = bytes_per_weight / bandwidth and solve for T.",
))
def turning_point(turn):
    for name, (peak, bandwidth, size) in _MACHINES.items():
        got = turn(peak, bandwidth, size)
        ridge = peak / bandwidth
        want = ridge * size / 2
        if size != 2 and same(got, ridge):
            raise Wrong(f"{name}: that is the ridge in FLOPs per byte. Tokens are wanted: how many FLOPs "
                        f"does a token do with a weight, and how many bytes has the weight here ({size:g})?")
        rounded = same(got, math.floor(want)) or same(got, math.ceil(want))
        if rounded and not same(got, want):
            raise Wrong(f"{name}: {got:g} is rounded. The exact limit is wanted, {want:g}.")
        if same(got, 2 * want):
            raise Wrong(f"{name}: twice too many tokens. A multiply-add is two FLOPs, so a token brings 2 "
                        "for each weight.")
        if same(got, 1 / want):
            raise Wrong(f"{name}: upside down. A machine with more arithmetic for its bandwidth needs MORE "
                        "tokens to keep it busy.")
        close(got, want, f"tokens for {name}")
    return ("Below 37 tokens an H20 waits for its memory, an H100 below 295: shorter prompts are read, not "
            "computed.")


@exercise("11.tokens_to_run", hints=(
    "Which slots of the cache are still true? A slot depends on its token and on everything before it.",
    "Only the common prefix can be kept: count equal tokens from the start and stop at the first difference. "
    "Everything after it must run, however much of the tail looks the same.",
    "kept = number of leading equal pairs in zip(cached, prompt); return len(prompt) − min(kept, len(prompt) "
    "− 1): the last token always runs, because its logits are what you came for.",
))
def tokens_to_run(count):
    system, question = [7, 7, 30, 12, 9], [55, 21, 21]
    cases = (
        ("a follow-up after the same start", system + question, system + question + [4, 80], 2),
        ("one early token edited", system + question, [7, 8, 30, 12, 9] + question, 7),
        ("a line put in front", system + question, [1] + system + question, 9),
        ("an empty cache", [], question, 3),
        ("a prompt that is cached whole", system + question, system + question, 1),
        ("a prompt shorter than the cache", system + question, system, 1),
    )
    for name, cached, prompt, want in cases:
        got = count(list(cached), list(prompt))
        with about(name):
            if want != got:
                _explain_run(got, want, cached, prompt)
            require(want == got or name != "a line put in front" or int(got) >= want,
                    "everything has moved by one place and has a new beginning. Nothing can be kept.")
            close(got, want, "tokens to run")
    return "This comparison, made block by block, is prefix caching (notebook 13)."


def _explain_run(got, want: int, cached: list[int], prompt: list[int]) -> None:
    """Raise Wrong with the reason, if it is a known one."""
    total = len(prompt)
    same_place = sum(a == b for a, b in zip(cached, prompt))
    anywhere = len(set(cached) & set(prompt))
    mistakes = [(0, "0 tokens run gives no logits, so no next token. The last one always runs.")]
    if prompt[:len(cached)] == cached:
        mistakes.append((total - want, f"{got} can be kept, {want} are to be run: of {total} tokens you "
                                       "counted the others."))
    explain(got, [
        *mistakes,
        (max(1, total - same_place), "a token that is equal but stands AFTER the change has other keys and "
                                     "values: in all layers but the first it has looked at what changed."),
        (max(1, total - anywhere), "a cache slot belongs to a token at a place, not to a token wherever it "
                                   "appears."),
    ])
