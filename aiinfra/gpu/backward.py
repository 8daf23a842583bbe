"""A backward pass in Python, for tensors of a GPU that is not there.

    loss ─► grad_fn ─► its next_functions ─► … ─► AccumulateGrad ─► parameter.grad
            the last operation first; one that several gradients reach waits for all of them

PyTorch's own engine hands a GPU's gradients from stream to stream, and a build for CPUs has none. What it
does otherwise is done here: it calls the same nodes in the same order, adds up, and brings each gradient to
the shape and dtype of what it belongs to. Hooks on tensors are not called. Notebook 14.
"""

import heapq
from collections import Counter
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor
from torch.autograd import _engine_run_backward as run_engine

from aiinfra.gpu.replaced import replaced

_Edge = tuple[Any, int]                              # a node (None: no gradient is wanted), its argument


def run_backward(roots: tuple[Tensor, ...], gradients: tuple[Tensor, ...], *options: Any, **more: Any) -> Any:
    """What `torch.autograd.backward` calls; the engine itself for tensors that lie on the CPU. Raises
    NotImplementedError for what only the engine does: gradients of some tensors alone, or of gradients."""
    if not any(isinstance(root, FakeTensor) for root in roots):
        return run_engine(roots, gradients, *options, **more)
    _, create_graph, inputs, *_ = options
    if create_graph or inputs or not more.get("accumulate_grad"):
        raise NotImplementedError("on a fake GPU there is backward(), which fills every .grad, and no more.")
    walk(roots, gradients)


def walk(roots: tuple[Tensor, ...], gradients: tuple[Tensor, ...]) -> None:
    """From each root and its gradient to every leaf's .grad, by Python alone."""
    graph = _Graph([root.grad_fn for root in roots])
    # By this number, checkpointed layers know that they are all asked for in one pass.
    one_pass = replaced(torch._C, _current_graph_task_id=lambda: id(graph))
    with torch.no_grad(), one_pass:
        for root, gradient in zip(roots, gradients):
            graph.deliver((root.grad_fn, root.output_nr), gradient)
        graph.run()


class _Graph:
    """What is left of one pass. Nodes are kept: two objects of one node are told apart by nothing else."""

    def __init__(self, first: list[Any]) -> None:
        self.nodes: dict[int, Any] = {}
        self.awaited: Counter[int] = Counter(map(id, first))       # gradients that are still to come
        self.arrived: dict[int, list[Tensor | None]] = {}
        self.ready: list[tuple[int, int]] = []                     # the youngest operation first
        waiting = list(first)
        while waiting:
            node = waiting.pop()
            if id(node) in self.nodes:
                continue
            self.nodes[id(node)] = node
            for following, _ in _edges(node):
                self.awaited[id(following)] += 1
                waiting.append(following)

    def run(self) -> None:
        """Call every node once all of its gradients are there."""
        while self.ready:
            _, key = heapq.heappop(self.ready)
            node = self.nodes[key]
            gradients = self.arrived.pop(key, [])
            if hasattr(node, "variable"):
                _accumulate(node.variable, gradients[0])
                continue
            for edge, gradient in zip(_edges(node), _call(node, gradients)):
                self.deliver(edge, gradient)

    def deliver(self, edge: _Edge, gradient: Tensor | None) -> None:
        """Bring a gradient, or word that there is none, to a node."""
        node, argument = edge
        wanted = node._input_metadata
        slots = self.arrived.setdefault(id(node), [None] * len(wanted))
        if gradient is not None:
            gradient = _fitted(gradient, wanted[argument])
            before = slots[argument]
            slots[argument] = gradient if before is None else before + gradient
        self.awaited[id(node)] -= 1
        if not self.awaited[id(node)]:
            heapq.heappush(self.ready, (-node._sequence_nr(), id(node)))


def _edges(node: Any) -> list[_Edge]:
    """To the nodes that want a gradient."""
    return [edge for edge in node.next_functions if edge[0] is not None]


def _call(node: Any, gradients: list[Tensor | None]) -> list[Tensor | None]:
    """What a node makes of the gradients of its outputs: a gradient for each of its edges."""
    if all(gradient is None for gradient in gradients):
        return [None] * len(_edges(node))
    if not hasattr(node, "needs_input_grad"):                      # one of PyTorch's own
        made = _as_tuple(node(*gradients))
        return [one for one, edge in zip(made, node.next_functions) if edge[0] is not None]
    filled = []
    for gradient, wanted in zip(gradients, node._input_metadata):
        if gradient is None:
            gradient = torch.zeros(wanted.shape, dtype=wanted.dtype, device=wanted.device)
        filled.append(gradient)
    made = _as_tuple(node.apply(*filled))
    return [one for one, needed in zip(made, node.needs_input_grad) if needed]


def _as_tuple(made: Any) -> tuple:
    return made if isinstance(made, tuple) else (made,)


def _fitted(gradient: Tensor, wanted: Any) -> Tensor:
    """Of the shape and dtype of what it is the gradient of. Raises RuntimeError for another device."""
    if gradient.device != wanted.device:
        raise RuntimeError(f"a gradient lies on device {gradient.device}, and what it belongs to on "
                           f"{wanted.device}.")
    if gradient.shape != wanted.shape:
        gradient = gradient.sum_to_size(wanted.shape)
    return gradient.to(wanted.dtype)


def _accumulate(leaf: Tensor, gradient: Tensor | None) -> None:
    if gradient is None:
        return
    if leaf.grad is None:
        leaf.grad = gradient.detach()
    else:
        leaf.grad += gradient
