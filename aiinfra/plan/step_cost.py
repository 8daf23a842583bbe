"""What does a step take? A formula over the integers of a scheduler's plan, for any model on any machine.

    plan ──> StepLoad: tokens, contexts, answers ──> a sum over parts, each bound by what is slowest in it

    matrices     max of arithmetic (rows by the 64) and weights read, and of a walk along their inputs
    experts      the same over those that are hit: E(1 − (1 − k/E)^tokens)
    attention    prompts by arithmetic, answers by the cache they read; latent attention by either
    transfers    all-reduce under tp, all-to-all under dp with ep: latency + bytes / bandwidth
    launches     every kernel begins and ends, host: the CPU plans, samples and sends

Ranks of a replica are taken to be alike: with dp > 1 every group runs the plan of this one at the same time.
It takes some microseconds, so a day of traffic can be simulated. The idea of a price in place of the GPU is
Revati's (arXiv 2601.00397). Notebooks 17 and 18.
"""

from dataclasses import dataclass
from math import hypot
from typing import NamedTuple

from aiinfra.engine.scheduler import Plan
from aiinfra.model import ModelConfig
from aiinfra.perf.collectives import Link, Volume, all_reduce
from aiinfra.perf.experts import experts_hit
from aiinfra.plan.machine import Efficiency, Machine
from aiinfra.plan.models import ServedModel
from aiinfra.plan.split import (RankMatrix, ServingSplit, experts_of, kv_bits_of, kv_bytes_per_token,
                                matrices_of, precision_of)

_FEW = 16                   # new tokens of a request that still count as decoding: guesses, not a prompt
_WIDENING_ROWS = 16         # Frantar et al. 2024 (Marlin), arXiv 2408.11743
_FEW_ROWS = 1024            # of a group in a step, up to which transfers are built for latency
_ROW_PASSES = 10            # how often a layer reads or writes a row of the model's width outside products
_EXPERT_PASSES = 4          # and a row that goes to an expert


class StepLoad(NamedTuple):
    """What a plan asks of a model, in numbers that add up."""

    tokens: int = 0
    answers: int = 0                # rows that go to the vocabulary
    context: float = 0              # tokens of cache that decodes read
    decode_pairs: float = 0         # a new token and one that it sees
    prompt_pairs: float = 0
    windowed: int = 0               # `context` where attention sees a window only


class TimePart(NamedTuple):
    """Seconds of a step, and what they are bound by: "memory", "compute", "depth", "links", "launches",
    "host"."""

    name: str
    bound: str
    seconds: float


@dataclass(frozen=True)
class _Product:
    """A matrix with all that can be said of its time beforehand."""

    part: str
    layers: int
    tile_rows: int
    tile_seconds: float             # of arithmetic, for each tile of rows
    weight_seconds: float
    row_seconds: float              # of reading inputs and writing outputs, for each row
    depth_seconds: float

    def bound(self, rows: int) -> tuple[str, float]:
        """What binds one layer, and its seconds."""
        tiles = -(-rows // self.tile_rows)
        compute = tiles * self.tile_seconds
        memory = self.weight_seconds + rows * self.row_seconds
        both = hypot(compute, memory)                  # they overlap, but not wholly where they are alike
        if self.depth_seconds > both:
            return "depth", self.depth_seconds
        return ("compute" if compute > memory else "memory"), both


class ServingCost:
    """Seconds of a plan on one replica: call it, or ask `explain` for the parts."""

    def __init__(self, model: ServedModel | ModelConfig, machine: Machine, split: ServingSplit | None = None,
                 efficiency: Efficiency | None = None, precision: str = "bf16", kv: str = "bf16",
                 drafts: int = 0, context_scale: float = 1.0) -> None:
        """drafts: guesses that run with each decode, beside those of the plan. context_scale: by so much the
        context of decodes is longer than the plan says. Raises ValueError for what does not go together: see
        `ServingSplit.check`."""
        if isinstance(model, ModelConfig):
            model = ServedModel("this model", model, source="given")
        self.model, self.machine = model, machine
        self.split = split or ServingSplit()
        self.split.check(model)
        self.efficiency = efficiency or machine.efficiency
        self.precision = precision_of(precision)
        self._shape = model.config
        self._kv_bits = kv_bits_of(kv)
        self._rows, self._scale = 1 + drafts, context_scale
        self._products = [self._product(one) for one in matrices_of(model, self.split, self.precision)]
        self._experts = experts_of(model, self.split, self.precision)
        self._launches = self._launch_count()

    def __call__(self, plan: Plan) -> float:
        """Seconds of the step."""
        return self.seconds(self.load(plan))

    def decode(self, requests: int, context: int) -> float:
        """Seconds of a step of decodes alone, which read `context` tokens together: see `plan.leap`. Where
        attention sees a window, they are taken to be equally long."""
        windowed = min(context, requests * self.model.window)
        load = StepLoad(tokens=requests, answers=requests, context=context, decode_pairs=context,
                        windowed=windowed)
        return self.seconds(self._with_drafts(load, requests))

    def explain(self, plan: Plan) -> list[TimePart]:
        """The same by part; they add up to it."""
        return self.parts(self.load(plan))

    def load(self, plan: Plan) -> StepLoad:
        """What the plan asks."""
        tokens = answers = context = decode_pairs = windowed = decodes = 0
        prompt_pairs = 0.0
        window = self.model.window
        for work in plan.work:
            count, end = work.count, work.end
            tokens += count
            if count <= _FEW:
                context += end
                decode_pairs += count * end
                windowed += min(end, window)
                answers += count
                decodes += count
            else:
                prompt_pairs += count * (work.start + (count + 1) / 2)
                answers += work.last
        load = StepLoad(tokens=tokens, answers=answers, context=context, decode_pairs=decode_pairs,
                        prompt_pairs=prompt_pairs, windowed=windowed)
        return self._with_drafts(load, decodes)

    def _with_drafts(self, load: StepLoad, decodes: int) -> StepLoad:
        """What is added that the plan does not know."""
        more = (self._rows - 1) * decodes
        if not more and self._scale == 1:
            return load
        return load._replace(
            tokens=load.tokens + more,
            answers=load.answers + more,
            context=load.context * self._scale,
            decode_pairs=load.decode_pairs * self._scale * self._rows)

    def seconds(self, load: StepLoad) -> float:
        """Of a step that asks for so much."""
        return sum(part.seconds for part in self.parts(load))

    def parts(self, load: StepLoad) -> list[TimePart]:
        """Of a step that asks for so much."""
        if not load.tokens:
            return [self._host(load)]
        found = [*self._matrices(load), *self._routed(load), *self._attention(load)]
        found.append(self._rowwise(load))
        launches = self._launches * self.efficiency.launch_seconds
        found.append(TimePart("launches", "launches", launches))
        busy = sum(part.seconds for part in found)
        found += self._transfers(load, busy)
        found.append(self._host(load))
        return found

    # How each part is priced.

    def _product(self, matrix: RankMatrix) -> _Product:
        reached, sheet = self.efficiency, self.machine.sheet
        bandwidth = sheet.bandwidth * reached.gemm_memory
        flops = self.machine.peak(matrix.compute_bits) * reached.gemm_compute
        value_bytes = matrix.compute_bits / 8
        moved = matrix.inputs * value_bytes + matrix.outputs * 2
        tile_rows = self._tile_rows(matrix.bits, matrix.compute_bits)
        return _Product(
            part=matrix.part,
            layers=matrix.layers,
            tile_rows=tile_rows,
            tile_seconds=2 * tile_rows * matrix.inputs * matrix.outputs / flops,
            weight_seconds=matrix.nbytes / bandwidth,
            row_seconds=moved / bandwidth,
            depth_seconds=matrix.inputs * value_bytes * reached.depth_seconds)

    def _matrices(self, load: StepLoad) -> list[TimePart]:
        found = []
        for product in self._products:
            rows = load.tokens
            if product.part == "vocabulary":
                rows = load.answers * self.split.groups
            if rows:
                bound, seconds = product.bound(rows)
                found.append(TimePart(product.part, bound, product.layers * seconds))
        return found

    def _tile_rows(self, bits: float, compute_bits: int) -> int:
        """Kernels that widen weights on the way, such as Marlin's, take fewer rows at once."""
        if bits < compute_bits:
            return min(_WIDENING_ROWS, self.efficiency.tile_rows)
        return self.efficiency.tile_rows

    def _routed(self, load: StepLoad) -> list[TimePart]:
        """The routed experts: those that are hit are read, and each takes its rows by the tile."""
        experts = self._experts
        if experts is None:
            return []
        moe, split, reached = self._shape.moe, self.split, self.efficiency
        tokens = load.tokens * split.groups
        hit = experts_hit(moe.num_experts, moe.num_experts_per_tok, tokens)
        busiest = split.imbalance if split.ep > 1 else 1.0
        here = min(experts.slots, busiest * hit / split.ep)
        rows = busiest * tokens * moe.num_experts_per_tok / split.ep / here
        tile_rows = self._tile_rows(experts.bits, experts.compute_bits)
        padded = max(rows + tile_rows / 2, tile_rows)                   # half of the last tile is empty
        flops = self.machine.peak(experts.compute_bits) * reached.grouped_compute
        bandwidth = self.machine.sheet.bandwidth * reached.grouped_memory
        compute = 6 * here * padded * experts.width * experts.inner / flops
        memory = here * experts.nbytes / bandwidth
        bound = "compute" if compute > memory else "memory"
        return [TimePart("experts", bound, experts.layers * hypot(compute, memory))]

    def _attention(self, load: StepLoad) -> list[TimePart]:
        found = []
        if load.context:
            bound, seconds = self._decode_attention(load)
            found.append(TimePart("attention of answers", bound, seconds))
        if load.prompt_pairs:
            flops = self.machine.peak(16) * self.efficiency.prefill_attention
            seconds = self._shape.num_hidden_layers * load.prompt_pairs * self._pair_flops() / flops
            found.append(TimePart("attention of prompts", "compute", seconds))
        return found

    def _decode_attention(self, load: StepLoad) -> tuple[str, float]:
        shape, reached, tp = self._shape, self.efficiency, self.split.tp
        bandwidth = self.machine.sheet.bandwidth * reached.decode_memory
        read = load.context * kv_bytes_per_token(self.model, tp, self._kv_bits)
        if self.model.windowed_layers:
            heads = max(1, shape.num_key_value_heads / tp)
            each = 2 * heads * shape.head_dim * self._kv_bits / 8
            read += self.model.windowed_layers * load.windowed * each
        memory = read / bandwidth
        if shape.mla is None:
            return "memory", memory
        # All heads ask of the same vector: a tile of heads, even where a rank has fewer.
        heads = max(shape.num_attention_heads // tp, reached.tile_rows)
        pair = 2 * heads * (shape.mla.kept_size + shape.mla.kv_lora_rank)
        flops = self.machine.peak(min(16, self._kv_bits)) * reached.latent_compute
        compute = shape.num_hidden_layers * load.decode_pairs * pair / flops
        if compute > memory:
            return "compute", compute
        return "memory", memory

    def _pair_flops(self) -> float:
        """Of a rank, in one layer, for a new token and one that it sees."""
        shape = self._shape
        heads = shape.num_attention_heads / self.split.tp
        both = 2 * shape.head_dim
        if shape.mla is not None:
            both = shape.mla.qk_head_dim + shape.mla.v_head_dim
        return 2 * heads * both

    def _rowwise(self, load: StepLoad) -> TimePart:
        """Norms, activations, residuals, and rows on their way to experts and back."""
        shape = self._shape
        passes = _ROW_PASSES * shape.num_hidden_layers
        if self._experts is not None:
            passes += _EXPERT_PASSES * shape.moe.num_experts_per_tok * self._experts.layers
        rows = passes * load.tokens
        bandwidth = self.machine.sheet.bandwidth * self.efficiency.rowwise_memory
        return TimePart("rows", "memory", rows * shape.hidden_size * 2 / bandwidth)

    def _host(self, load: StepLoad) -> TimePart:
        """What the CPU does while the GPU waits, of which a part is for each answer."""
        reached = self.efficiency
        return TimePart("host", "host", reached.host_seconds + load.answers * reached.answer_seconds)

    def _transfers(self, load: StepLoad, busy: float) -> list[TimePart]:
        found = []
        if self.split.tp > 1:
            link = self._reached(self.machine.link(self.split.tp))
            sent = all_reduce(load.tokens * self._shape.hidden_size * 2, self.split.tp)
            seconds = self._sums_in_a_layer() * self._shape.num_hidden_layers * link.seconds(sent)
            found.append(TimePart("all-reduce", "links", seconds))
        if self.split.groups > 1:
            seconds = self._all_to_all(load.tokens)
            if self.split.two_batches:
                seconds -= self.efficiency.overlap * min(seconds, busy)
            found.append(TimePart("all-to-all", "links", seconds))
        return found

    def _sums_in_a_layer(self) -> int:
        """Behind attention and behind the feed-forward; where tokens travel to experts, the first only."""
        return 1 if self.split.groups > 1 else 2

    def _reached(self, link: Link) -> Link:
        reached = link.bytes_per_second * self.efficiency.link
        return Link(latency_seconds=link.latency_seconds, bytes_per_second=reached)

    def _all_to_all(self, tokens: int) -> float:
        """Every row to its experts' ranks in the precision of products, and back in 16 bits. Over a network a
        prompt's row crosses once to each node that wants it; a decode's, for latency, once to each expert."""
        moe, split = self._shape.moe, self.split
        machine = self.machine
        link = self._reached(machine.link(split.gpus))
        copies = moe.num_experts_per_tok
        nodes = max(1, split.gpus / machine.gpus_per_node)
        if nodes > 1 and tokens > _FEW_ROWS:
            copies = min(copies, nodes)
            if moe.n_group > 1:
                copies = min(copies, moe.topk_group)
        # What stays within the node, or the GPU, takes no time of the link.
        copies *= 1 - max(1 / nodes if nodes > 1 else 0, 1 / split.ep)
        value_bytes = self._experts.compute_bits / 8 + 2
        nbytes = tokens / split.tp * copies * self._shape.hidden_size * value_bytes
        once = link.seconds(Volume(calls=2, sent_bytes=nbytes, messages=4))
        return self._experts.layers * once

    def _launch_count(self) -> int:
        """Kernels of a step: those that the layers of good engines have, and one for each collective."""
        shape = self._shape
        attention = 11 if shape.mla is not None else 7            # norm, q k v, turn, keep, attend, out
        if self.precision.rounds_inputs:
            attention += 2
        if shape.qk_norm:
            attention += 1
        dense = 6 if self.precision.rounds_inputs else 4          # norm, up, activation, down
        sparse = dense + 5                                        # and router, choice, sorting, combining
        if shape.moe is not None and shape.moe.n_shared_experts:
            sparse += 3
        layers = shape.num_hidden_layers
        sparse_layers = sum(shape.is_sparse(layer) for layer in range(layers))
        count = layers * attention + sparse_layers * sparse + (layers - sparse_layers) * dense
        if self.split.gpus > 1:
            count += 2 * layers                                   # collectives
        return count + 4                                          # embedding, last norm, vocabulary, choice
