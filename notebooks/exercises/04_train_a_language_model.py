"""Judges and hints of notebook 04, train a language model. All is small and exact; nothing is trained."""

import math
from collections.abc import Callable, Sequence

import torch
from tokenizers import models
from torch import Tensor, nn

from aiinfra.lab.exercise import Wrong, close, exercise, require
from aiinfra.lab.judging import about, answered, explain, is_finite, number, same, several
from aiinfra.train.corpus import Corpus
from aiinfra.train.data import PackedStream
from aiinfra.train.optimizer import Schedule

_LEARNED = "h e, t he, e r, s t, o o, r oo, roo st, the r, st er, a a, b c, a b, c d, ab cd, m n, n o, m no"
_MERGES = [tuple(pair.split()) for pair in _LEARNED.split(", ")]
_WORDS = "the mno abc abcd other there rooster sheet herd aaa aaaaa hehe z strooster".split()
Pieces = list[tuple[int, int, int]]        # (document, first token, the one after the last)


@exercise("04.encode", hints=(
    "Which of several possible joins comes first? Not the leftmost one in the word: the one that was learned "
    "first.",
    "Walk through the merges in their order, and for each walk once through the pieces from left to right, "
    "joining wherever the two stand side by side. The page's `join` does the inner walk.",
    "pieces = list(word); for left, right in merges: at = 0; while at < len(pieces) − 1: if (pieces[at], "
    "pieces[at + 1]) == (left, right): pieces[at:at + 2] = [left + right]; then at += 1.",
))
def encode(encode):
    for word in _WORDS:
        got = answered(encode(word, list(_MERGES)))
        require(isinstance(got, list | tuple), f"you returned {got!r}; a list of pieces is wanted.")
        mine = list(got)
        with about(f"{word!r}"):
            spelled = "".join(map(str, mine))
            require(spelled == word, f"your pieces {mine} do not spell the word any more.")
            _explain_pieces(mine, word)
    longest = " · ".join(_field_encode(_WORDS[-1]))
    return f"As the tokenizers library: {longest}."


def _field_encode(word: str) -> list[str]:
    """What Hugging Face's tokenizers make of it."""
    joined = map("".join, _MERGES)
    pieces = dict.fromkeys([*"abcdefghijklmnopqrstuvwxyz", *joined])
    vocabulary = dict(zip(pieces, range(len(pieces))))
    model = models.BPE(vocab=vocabulary, merges=_MERGES)
    return [token.value for token in model.tokenize(word)]


def _explain_pieces(mine: list[str], word: str) -> None:
    """Raise Wrong unless the pieces are right, with the reason, if it is a known one."""
    want = _field_encode(word)
    if mine == want:
        return
    figures = f"you have {mine}; {want} is wanted."
    require(mine != list(word), f"{figures} Nothing was joined.")
    require(mine != _leftmost_first(word),
            f"{figures} You join what stands leftmost; of all pairs that can be joined, the one that was "
            "learned first has its turn first.")
    require(mine != _longest_first(word),
            f"{figures} You take the longest piece that fits; the merges have an order of their own.")
    require(mine != _once_each(word),
            f"{figures} A merge joins its pair wherever it stands in the word, not only the first time.")
    raise Wrong(figures)


def _leftmost_first(word: str) -> list[str]:
    pieces = list(word)
    at = 0
    while at < len(pieces) - 1:
        pair = (pieces[at], pieces[at + 1])
        if pair in _MERGES:
            pieces[at:at + 2] = ["".join(pair)]
            at = 0
        else:
            at += 1
    return pieces


def _longest_first(word: str) -> list[str]:
    joined = list(map("".join, _MERGES))
    pieces = []
    while word:
        fitting = filter(word.startswith, joined)
        piece = max(fitting, key=len, default=word[0])
        pieces.append(piece)
        word = word.removeprefix(piece)
    return pieces


def _once_each(word: str) -> list[str]:
    pieces = list(word)
    for pair in _MERGES:
        places = list(zip(pieces, pieces[1:]))
        if pair in places:
            at = places.index(pair)
            pieces[at:at + 2] = ["".join(pair)]
    return pieces


@exercise("04.row_pieces", hints=(
    "Lay all documents end to end: where does each begin in that one long line, and which stretch of it is "
    "row number `row`?",
    "Row `row` is [row · T, (row + 1) · T) of the line. A document that begins at `begin` gives the overlap "
    "of [begin, begin + length) with it, if there is one; counted from the document's own first token.",
    "low, high = row * row_length, (row + 1) * row_length; begin = 0; for d, length in enumerate(lengths): "
    "start, end = max(low, begin), min(high, begin + length); if start < end: keep (d, start − begin, end − "
    "begin); begin += length.",
))
def row_pieces(pieces):
    generator = torch.Generator().manual_seed(4)
    cases = [
        ([3, 5, 2], 4),
        ([4, 4, 4], 4),
        ([11], 4),
        ([1, 1, 1, 1, 1], 2),
        ([6, 2], 8),
    ]
    for row_length in range(1, 10):
        lengths = torch.randint(1, 12, (7,), generator=generator)
        cases.append((lengths.tolist(), row_length))
    for lengths, row_length in cases:
        rows = math.ceil(sum(lengths) / row_length)
        for row in range(rows):
            got = answered(pieces(list(lengths), row_length, row))
            with about(f"lengths {lengths}, rows of {row_length}, row {row}"):
                _judge_pieces(got, lengths, row_length, row)
    return "Any row, from its number alone: to resume, a reader seeks; it does not replay."


def _judge_pieces(got, lengths: list[int], row_length: int, row: int) -> None:
    message = f"you returned {got!r}; a list of (document, start, end) is wanted."
    require(isinstance(got, list | tuple), message)
    for piece in got:
        several(piece, 3, message)
    mine = [tuple(map(int, piece)) for piece in got]
    want = _library_pieces(lengths, row_length, row)
    if mine == want:
        return
    figures = f"you have {mine}; {want} is wanted."
    inclusive = [(document, start, end - 1) for document, start, end in want]
    require(mine != inclusive,
            f"{figures} `end` is the first token that is no more in it, as in a slice.")
    empty = [piece for piece in mine if _tokens([piece]) < 1]
    require(not empty, f"{figures} A piece without a token, {empty[:1]}, is none.")
    begins = [sum(lengths[:document]) for document in range(len(lengths))]
    in_line = _moved(want, begins)
    first = row * row_length
    in_row = _moved(in_line, [-first] * len(lengths))
    require(mine not in (in_line, in_row),
            f"{figures} start and end count from the document's own first token, neither from the line's nor "
            "from the row's.")
    tokens, wanted = _tokens(mine), _tokens(want)
    require(tokens == wanted, f"{figures} That is {tokens} tokens; this row has {wanted}.")
    raise Wrong(figures)


def _tokens(pieces: Pieces) -> int:
    return sum(end - start for _, start, end in pieces)


def _moved(pieces: Pieces, by: Sequence[int]) -> Pieces:
    """Each document's places moved by so much."""
    moved = []
    for document, start, end in pieces:
        far = by[document]
        moved.append((document, start + far, end + far))
    return moved


def _library_pieces(lengths: list[int], row_length: int, row: int) -> Pieces:
    """What the library's stream takes for this row, if tokens are numbered in the line."""
    starts = torch.tensor([0, *lengths]).cumsum(0)
    count = int(starts[-1])
    numbers = torch.arange(count + 1, dtype=torch.int32)
    corpus = Corpus(tokens=numbers, starts=starts, token_bytes=torch.ones_like(numbers))
    stream = PackedStream(corpus, length=min(row_length, count), rows=1, seed=None, position=row)
    batch = next(stream)
    found = []
    for first in batch.documents.cu_seqlens[:-1].tolist():
        token = int(batch.tokens[first])
        document = int(torch.searchsorted(starts, token, right=True)) - 1
        begin, end = int(starts[document]), int(starts[document + 1])
        last = int(batch.tokens[-1])
        found.append((document, token - begin, min(end, last + 1) - begin))
    return found


@exercise("04.window_loss", hints=(
    "Adding up gradients adds up losses. Which one loss, of the whole window, do you want the gradient of? "
    "What is it divided by?",
    "Sum of the losses of all tokens that count, divided by how many of them the whole WINDOW has. Count "
    "first, over all micro-batches; and think of a window in which nothing counts.",
    "total = sum(int(mask.sum()) for mask in masks); return [(loss * mask).sum() / max(total, 1) for loss, "
    "mask in zip(losses, masks)].",
))
def window_loss(window_loss):
    generator = torch.Generator().manual_seed(4)
    cases = (
        (8, 8, 8),
        (8, 1, 5),
        (8, 0, 3),
        (0, 0),
        (2,),
    )
    for counts in cases:
        weights = torch.randn(len(counts), 8, generator=generator, requires_grad=True)
        places = torch.rand(len(counts), 8, generator=generator).argsort(1)
        masks = places < torch.tensor(counts)[:, None]
        shown = ", ".join(map(str, counts))
        with about(f"micro-batches with {shown} tokens of 8 that count"):
            _judge_window(window_loss, weights, masks)
    return "Eight micro-batches of four rows are one of thirty-two, whoever is masked."


def _judge_window(window_loss, weights: Tensor, masks: Tensor) -> None:
    losses = weights.square().unbind()
    answer = answered(window_loss(list(losses), list(masks.clone())))
    several(answer, len(masks),
            f"{len(masks)} numbers are wanted, one for each micro-batch, also for one in which nothing "
            "counts.")
    for one in answer:
        is_scalar = torch.is_tensor(one) and one.ndim == 0
        require(is_scalar, "each loss must be a tensor without dimensions, for .backward() to start from.")
        require(is_finite(one.detach()),
                "one of them is NaN or infinite: 0 / 0. Where nothing counts, the loss is 0.")
    total = int(masks.sum())
    connected = [one for one in answer if one.requires_grad]
    require(connected or not total,
            "no gradient flows: keep the losses as tensors, without .item() or .detach().")
    got = _gradient_of(connected, weights)
    right = 2 * weights.detach() * masks
    _explain_window(got, right, weights.detach(), masks)
    close(got, right / max(total, 1), "the gradients, added up")


def _gradient_of(losses: Sequence[Tensor], weights: Tensor) -> Tensor:
    if not losses:
        return torch.zeros_like(weights)
    found, = torch.autograd.grad(sum(losses), weights, allow_unused=True, materialize_grads=True)
    return found


def _explain_window(got: Tensor, right: Tensor, weights: Tensor, masks: Tensor) -> None:
    """Raise Wrong with the reason, if it is a known one. `right` is the gradient of the sum."""
    each = masks.sum(1, keepdim=True).clamp(min=1)
    batches, places = len(masks), masks.numel()
    total = int(masks.sum().clamp(min=1))
    unmasked = 2 * weights
    learnt = "tokens that do not count are learnt from."
    explain(got, (
        (right / each / batches, "this is the mean of the micro-batches' means: a token in a nearly empty "
                                 "micro-batch weighs more than one in a full one."),
        (right / each, "each micro-batch has its own mean, and they are added up: the gradient grows with "
                       "the number of micro-batches."),
        (right / places, "tokens that do not count are counted in the divisor."),
        (unmasked / places, learnt),
        (unmasked / total, learnt),
        (right, "the sum is divided by nothing: a longer window takes a longer step."),
    ), unless=right / total)


@exercise("04.clip", hints=(
    "One length for everything: all gradients together are one long arrow. How long is it, and what may "
    "clipping change about it?",
    "norm = √(sum of the squares of ALL numbers of ALL tensors). If it is longer than allowed, multiply "
    "every tensor by the same factor longest / norm; its direction stays.",
    "norm = math.sqrt(sum(float((g ** 2).sum()) for g in gradients)); if norm > longest: for g in gradients: "
    "g *= longest / norm. Return norm, as it was before.",
))
def clip(clip):
    generator = torch.Generator().manual_seed(4)
    cases = (
        (3.0, 1.0),
        (0.01, 1.0),
        (1.0, 0.25),
        (0.0, 1.0),
    )
    shapes = (
        (4, 3),
        (5,),
        (2, 2, 2),
    )
    for scale, longest in cases:
        before = [scale * torch.randn(shape, generator=generator) for shape in shapes]
        mine = [gradient.clone() for gradient in before]
        norm = _plain(clip(mine, longest), "the norm")
        with about(f"a gradient of length {_arrow(before).norm():.3g}, at most {longest:g}"):
            _judge_clip(mine, norm, before, longest)
    return "The direction stays, the length is bounded, and the number in the log is the one before."


def _plain(value, what: str) -> float:
    """A number, or a tensor that is one."""
    if torch.is_tensor(value) and value.ndim == 0:
        value = float(value)
    return number(value, what)


def _arrow(gradients: Sequence[Tensor]) -> Tensor:
    return torch.cat([gradient.flatten() for gradient in gradients])


def _judge_clip(mine: list[Tensor], norm: float, before: list[Tensor], longest: float) -> None:
    right, whole = _field_clip(before, longest)
    got, flat = _arrow(mine), _arrow(before)
    require(is_finite(got), "the gradients are not finite any more: 0 divided by 0.")
    unchanged = torch.equal(got, flat)
    require(whole <= longest or not unchanged,
            "the tensors that you were given have not changed: write into them, with *= or mul_.")
    _explain_clip(got, right, before, longest)
    close(got, right, "the gradients", rtol=1e-4)
    after = float(got.norm())
    if same(norm, after, rtol=1e-4) and not same(norm, whole, rtol=1e-4):
        raise Wrong(f"you return {norm:.4g}, the length after clipping; the one before, {whole:.4g}, tells "
                    "how wild the step was.")
    close(norm, whole, "the norm", rtol=1e-4)


def _field_clip(before: list[Tensor], longest: float) -> tuple[Tensor, float]:
    """The arrow that PyTorch's own function leaves, and the length that it returns."""
    parameters = [nn.Parameter(gradient.clone()) for gradient in before]
    for parameter, gradient in zip(parameters, before):
        parameter.grad = gradient.clone()
    whole = nn.utils.clip_grad_norm_(parameters, longest)
    return _arrow([parameter.grad for parameter in parameters]), float(whole)


def _explain_clip(got: Tensor, right: Tensor, before: list[Tensor], longest: float) -> None:
    """Raise Wrong with the reason, if it is a known one."""
    flat = _arrow(before)
    stretched = flat * longest / flat.norm().clamp(min=1e-12)
    cut = flat.clamp(-longest, longest)
    each = [_field_clip([gradient], longest)[0] for gradient in before]
    explain(got, (
        (stretched, "a gradient that is short enough is left as it is; you lengthen it."),
        (_arrow(each), "each tensor is clipped for itself, which turns the whole arrow: one length for all."),
        (cut, "each number is cut off for itself, which turns the arrow: one factor for all."),
    ), unless=right, rtol=1e-4)


@exercise("04.learning_rate", hints=(
    "Two pieces: a straight line up until step `warmup`, then half a cosine wave. At which steps do the two "
    "pieces begin and end, and how high are they there?",
    "Before warm-up is over: peak · step / warmup. After it, the share of the way that lies behind: (step − "
    "warmup) / (steps − warmup), at most 1; the cosine of π times that goes from 1 to −1.",
    "if step < warmup: return peak * step / warmup. gone = min(1, (step − warmup) / max(1, steps − warmup)); "
    "return peak * (floor + (1 − floor) * (1 + cos(π * gone)) / 2).",
))
def learning_rate(rate):
    plans = (
        Schedule(peak=1.0, warmup=10, steps=100, floor=0.1),
        Schedule(peak=3e-3, warmup=0, steps=50, floor=0.0),
        Schedule(peak=2.0, warmup=5, steps=5, floor=0.5),
        Schedule(peak=1.0, warmup=20, steps=40, floor=1.0),
    )
    for plan in plans:
        warmup, steps = plan.warmup, plan.steps
        middle = (warmup + steps) // 2
        for step in (1, 2, 9, warmup + 1, middle, steps - 1, steps, steps + 7):
            got = _plain(rate(step, plan.peak, warmup, steps, plan.floor), "the rate")
            told = f"warm-up {warmup}, peak {plan.peak:g}, floor {plan.floor:g}"
            with about(f"step {step} of {steps}, {told}"):
                _explain_rate(got, plan, step)
                close(got, plan.learning_rate(step), "the rate", rtol=1e-6, atol=1e-12)
    return "A function of the step and of nothing else, so a resumed run cannot be one step off."


def _wave(gone: float) -> float:
    """Half a cosine, from 1 to 0."""
    return (1 + math.cos(math.pi * gone)) / 2


def _explain_rate(got: float, plan: Schedule, step: int) -> None:
    """Raise Wrong with the reason, if it is a known one."""
    gone = (step - plan.warmup) / max(1, plan.steps - plan.warmup)
    share = min(1.0, max(0.0, gone))
    above = 1 - plan.floor

    def rate(height: float) -> float:
        return plan.peak * (plan.floor + above * height)
    before = plan.learning_rate(step - 1)
    mistakes = [
        (before, "you have the rate of the step before: steps count from 1, and step 1 must already learn."),
        (rate(1 - share), "this falls in a straight line; half a cosine is wanted."),
    ]
    if step >= plan.warmup:
        to_zero = plan.peak * _wave(share)
        from_start = rate(_wave(min(1.0, step / plan.steps)))
        mistakes += [
            (to_zero, "it falls towards 0; the cosine itself ends at floor · peak: floor + (1 − floor) · …"),
            (from_start, "the cosine begins at step 0; it begins where warm-up ends."),
            (rate(_wave(gone)), "behind the last step the cosine rises again; the rate stays at the floor."),
        ]
    explain(got, mistakes, unless=plan.learning_rate(step), rtol=1e-6)
