"""A mixture of experts in place of one feed-forward: each token takes k of E, so most weights rest.

    x [N, D] ─┬─ router ─► k experts and weights a token
              ├─ sort rows by expert ─► gate_up ─ SwiGLU ─ down ─► back in place ─► Σ weight · row ─(+)─►
              └─ shared experts, if the model has them: every token ─────────────────────────────────┘

Rows are sorted by expert, so that each expert is one product over the rows that it got
(kernels/grouped_matmul.py); nobody's row is dropped, and an expert without a row does nothing. How many rows
each has stays on the device.
`parallel/expert.py` replaces `experts` from outside by one whose experts live on other ranks. Notebook 17.
"""

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from aiinfra.kernels.grouped_matmul import grouped_matmul
from aiinfra.kernels.swiglu import swiglu
from aiinfra.model.balance import LoadBalance
from aiinfra.model.layers import SwiGLU, Weighed
from aiinfra.model.moe_config import MoEConfig
from aiinfra.perf.experts import experts_hit

_TINY = 1e-20               # no weights at all (sigmoid) divide by this, as in DeepSeek's own code


class Routing(NamedTuple):
    """Which experts each token takes."""

    experts: Tensor         # int64 [N, k]
    weights: Tensor         # [N, k], float32 or wider


class Router(Weighed, nn.Module):
    """Scores every expert for every token, and chooses k. Always in float32: bfloat16 would mix up those
    that score alike, and a choice is no small error."""

    bias: Tensor | None

    def __init__(self, width: int, config: MoEConfig) -> None:
        super().__init__()
        self.config = config
        self.weight = nn.Parameter(torch.empty(config.num_experts, width))
        # A buffer: no gradient moves it, but `balance.end_step` does, and checkpoints have it.
        self.register_buffer("bias", torch.zeros(config.num_experts) if config.has_bias else None)
        self.balance = LoadBalance(config.num_experts, config.router_aux_loss_coef)

    def forward(self, x: Tensor) -> Routing:
        """x [N, D] -> the choice of each row."""
        scores = self.scores(x)                                                # [N, E]
        chosen = self.choose(scores)                                           # [N, k]
        weights = scores.gather(1, chosen)
        if self.config.norm_topk_prob:
            weights = weights / (weights.sum(-1, keepdim=True) + _TINY)
        weights = weights * self.config.routed_scaling_factor
        if self.training and torch.is_grad_enabled():
            weights = self.balance.join(weights, scores, chosen)
        return Routing(chosen, weights)

    def scores(self, x: Tensor) -> Tensor:
        """Each expert's score [N, E], in float32 or wider, whatever autocast says."""
        wide = torch.promote_types(self.weight.dtype, torch.float32)
        kind = x.device.type
        if torch.amp.is_autocast_available(kind):
            with torch.autocast(kind, enabled=False):
                logits = linear(x.to(wide), self.weight.to(wide))
        else:
            logits = linear(x.to(wide), self.weight.to(wide))         # the meta device has no autocast
        if self.config.scoring_func == "sigmoid":
            return logits.sigmoid()
        return logits.softmax(-1)

    @torch.no_grad()
    def choose(self, scores: Tensor) -> Tensor:
        """The k best experts [N, k] by score and bias, from the best groups."""
        if self.bias is not None:
            scores = scores + self.bias
        if self.config.n_group > 1:
            scores = self._of_best_groups(scores)
        return scores.topk(self.config.num_experts_per_tok, -1).indices

    def _of_best_groups(self, scores: Tensor) -> Tensor:
        """-inf for experts of other groups. A group is as good as its two best."""
        grouped = scores.unflatten(-1, (self.config.n_group, -1))              # [N, groups, E / groups]
        quality = grouped.topk(2, -1).values.sum(-1)                           # [N, groups]
        best = quality.topk(self.config.topk_group, -1).indices
        out = torch.ones_like(quality, dtype=torch.bool).scatter(-1, best, False)
        return grouped.masked_fill(out.unsqueeze(-1), -torch.inf).flatten(-2)


class GroupedLinear(Weighed, nn.Module):
    """E linear layers without bias in one tensor, weight [E, out, in]."""

    def __init__(self, experts: int, inputs: int, outputs: int, chosen: int) -> None:
        super().__init__()
        self.chosen = chosen                               # how many of them a token takes
        self.weight = nn.Parameter(torch.empty(experts, outputs, inputs))

    def forward(self, x: Tensor, offsets: Tensor) -> Tensor:
        """x [N, in], rows offsets[e]:offsets[e + 1] through layer e -> [N, out]."""
        return grouped_matmul(x, self.weight, offsets)

    def nbytes_read(self, tokens: int = 1) -> int:
        """See Weighed: of the experts that so many tokens hit, if they choose by chance."""
        experts = len(self.weight)
        return round(self.weight.nbytes * experts_hit(experts, self.chosen, tokens) / experts)


class Experts(nn.Module):
    """The experts of one layer, and the way to them and back."""

    def __init__(self, width: int, config: MoEConfig) -> None:
        super().__init__()
        hidden, chosen = config.moe_intermediate_size, config.num_experts_per_tok
        self.count = config.num_experts
        self.gate_up = GroupedLinear(self.count, width, 2 * hidden, chosen)
        self.down = GroupedLinear(self.count, hidden, width, chosen)

    def forward(self, x: Tensor, routing: Routing) -> Tensor:
        """x [N, D] -> each row's weighted sum of its experts [N, D]."""
        order, offsets = sort_by_expert(routing.experts, self.count)
        rows = x.index_select(0, order // routing.experts.shape[1])            # [N · k, D]
        return combine(self.run(rows, offsets), order, routing)

    def run(self, rows: Tensor, offsets: Tensor) -> Tensor:
        """Rows that are sorted by expert, each through its own: [M, D] -> [M, D]."""
        return self.down(swiglu(self.gate_up(rows, offsets)), offsets)


class MoE(nn.Module):
    """Takes the place of SwiGLU in a sparse layer: [..., D] -> [..., D]."""

    def __init__(self, width: int, config: MoEConfig) -> None:
        super().__init__()
        self.router = Router(width, config)
        self.experts = Experts(width, config)
        self.shared = None
        if config.n_shared_experts:
            self.shared = SwiGLU(width, config.n_shared_experts * config.moe_intermediate_size)

    def forward(self, x: Tensor) -> Tensor:
        """x [..., D] -> [..., D]."""
        rows = x.reshape(-1, x.shape[-1])                                      # [N, D]
        y = self.experts(rows, self.router(rows))
        if self.shared is not None:
            y = y + self.shared(rows)
        return y.view(x.shape)


def sort_by_expert(experts: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """experts int64 [N, k]: the N · k choices in the order of their experts (those of one expert in the order
    of their tokens), and where each expert's begin: int32 [count + 1]."""
    sorted_experts, order = experts.flatten().sort(stable=True)
    borders = torch.arange(count + 1, device=experts.device)
    offsets = torch.searchsorted(sorted_experts, borders, out_int32=True)
    return order, offsets


def combine(rows: Tensor, order: Tensor, routing: Routing) -> Tensor:
    """Each token's rows back together, weighted: rows [N · k, D] as `order` has them -> [N, D].

    Put back before they are added, so that a sum has the same order at every run.
    """
    shape = (*routing.experts.shape, rows.shape[-1])                           # N, k, D
    back = torch.empty_like(order)
    back[order] = torch.arange(len(order), device=order.device)
    each = rows.index_select(0, back).view(shape)
    weighted = each * routing.weights.unsqueeze(-1)
    return weighted.sum(1).to(rows.dtype)
