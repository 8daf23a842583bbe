"""Activation checkpointing, applied from outside: keep less of the forward pass, and do it again in the
backward.

    policy        kept of a layer                                 done again in the backward pass
    "none"        everything                                      nothing
    "operation"   what matrix products and attention gave         norms, rotations, gates: cheap, and large
    "block"       its input                                       the layer: up to a third more arithmetic

Loss and gradients are the same to the last bit: the same operations run on the same numbers, and with dropout
the random state of the forward pass is put back first. Chen et al. 2016, arXiv 1604.06174. Notebook 05.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint, create_selective_checkpoint_contexts

from aiinfra.device import has_onednn
from aiinfra.errors import nearest

POLICIES = ("none", "operation", "block")
_KEPT = [
    torch.ops.aten.mm.default,
    torch.ops.aten.addmm.default,
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu.default,
    torch.ops.aten._scaled_dot_product_flash_attention.default,
    torch.ops.aten._scaled_dot_product_efficient_attention.default,
]
if has_onednn():
    _KEPT.append(torch.ops.mkldnn._linear_pointwise.default)


def recompute(model: nn.Module, policy: str) -> None:
    """Have every block in `model.layers` follow `policy` from now on; names of parameters do not change.

    Raises ValueError for an unknown policy, naming the nearest.
    """
    if policy not in POLICIES:
        known = ", ".join(POLICIES)
        raise ValueError(f"policy {policy!r} is not known.{nearest(policy, POLICIES)} Known: {known}.")
    for block in model.layers.children():            # of a pipeline's stage: those that it has
        block.__dict__.pop("forward", None)          # what an earlier call put in front of the class's own
        if policy != "none":
            block.forward = partial(_run, block.forward, policy)


def _run(forward: Callable[..., Any], policy: str, *args: Any) -> Any:
    """`forward(*args)`, of which only what the policy says is kept until the backward pass."""
    if not torch.is_grad_enabled():
        return forward(*args)
    same_dice = {"use_reentrant": False, "preserve_rng_state": True}
    if policy == "block":
        return checkpoint(forward, *args, **same_dice)
    keep = partial(create_selective_checkpoint_contexts, _KEPT)
    return checkpoint(forward, *args, **same_dice, context_fn=keep)
