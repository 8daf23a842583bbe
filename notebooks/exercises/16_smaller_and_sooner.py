"""Judges and hints of notebook 16, smaller and sooner. Everything is small and exact; no model is run."""

import math
from collections.abc import Sequence

import gguf
import numpy as np
import torch

from aiinfra.lab.exercise import Wrong, close, exercise, require
from aiinfra.lab.judging import about, answered, explain, is_finite, pair, same, several


def _is(got, want) -> bool:
    return same(got, want, atol=1e-6)


@exercise("16.quantise_groups", hints=(
    "Which line divides by the scale, and what are the numbers q of a group whose values are all equal? "
    "There is only one sensible answer.",
    "The minimum alone is exact for a constant group, so q = 0 will do. Divide by something else where the "
    "scale is 0; and look at the shapes: the groups lie inside the rows.",
    "values = w.unflatten(1, (-1, group)); minimum and scale by amin and amax over the last dimension, "
    "keepdim=True; q = ((values − minimum) / torch.where(scale == 0, 1, scale)).round().",
))
def quantise_groups(quantise):
    generator = torch.Generator().manual_seed(16)
    cases = (
        (4, 64, 4, 32),
        (3, 96, 8, 96),
        (2, 48, 2, 16),
    )
    for rows, columns, bits, group in cases:
        w = torch.randn(rows, columns, generator=generator) * 0.1
        w[1, :group] = -0.25                                             # a constant group
        w[0, group - 1] += 1.5                                           # an outlier
        answer = answered(quantise(w.clone(), bits, group))
        wanted = "three tensors are wanted: q, scale, minimum."
        several(answer, 3, wanted)
        require(all(map(torch.is_tensor, answer)), wanted)
        values = w.unflatten(1, (-1, group))                             # [rows, groups, group]
        with about(f"w [{rows}, {columns}], {bits} bits, groups of {group}"):
            _judge_numbers(answer, values, bits)
            _judge_marks(answer, values, bits)
    return "Half a step at most, in every group, and no NaN from a group of equal values."


def _judge_numbers(answer: Sequence[torch.Tensor], values: torch.Tensor, bits: int) -> None:
    """Raise Wrong unless q is whole, of so many bits, in float32, and all three have their shapes."""
    q, scale, _ = answer
    rows, groups, group = values.shape
    ruler = [rows, groups, 1]
    shapes = {
        "q": [rows, groups, group],
        "scale": ruler,
        "minimum": ruler,
    }
    for (name, wanted), tensor in zip(shapes.items(), answer):
        shape = list(tensor.shape)
        require(shape == wanted, f"{name} has the shape {shape}, not {wanted}.")
    require(is_finite(q) and is_finite(scale),
            f"a constant group gave {q[1, 0, 0].item()}: 0 divided by 0. What should its numbers be?")
    require(q.dtype == torch.float32,
            f"q is {q.dtype}; whole numbers are wanted, but as float32, so that scale * q is arithmetic "
            "without a conversion.")
    require(torch.equal(q, q.round()),
            f"q holds {q.flatten()[1].item():.3f}, but a number of {bits} bits is whole.")
    low, high = q.min().item(), q.max().item()
    most = 2**bits - 1
    require(low >= 0 and high <= most,
            f"q reaches from {low:.0f} to {high:.0f}; {bits} bits hold 0 to {most}.")


def _judge_marks(answer: Sequence[torch.Tensor], values: torch.Tensor, bits: int) -> None:
    """Raise Wrong unless each weight is at the nearest of the marks between minimum and maximum."""
    q, scale, minimum = answer
    back = minimum + scale * q
    close(back[1, 0], values[1, 0], "the constant group, there and back", atol=1e-7)
    marks = 2**bits
    span = values.amax(-1, keepdim=True) - values.amin(-1, keepdim=True)
    varied = span[..., 0] > 0                                            # a constant group may have any scale
    step = span[varied] / (marks - 1)                                    # [groups that vary, 1]
    steps_off = (back - values)[varied].abs() / step
    most_off = steps_off.max().item()
    lengths = scale[varied] / step
    if 0.51 < most_off <= 1.01 and same(lengths, torch.ones_like(lengths), atol=1e-4):
        raise Wrong(f"a weight is up to {most_off:.2f} steps away from its mark. Rounding to the NEAREST "
                    "mark is half a step at most; cutting off is up to one.")
    longest = lengths.max().item()
    require(longest <= 1.02,
            f"the steps are {longest:.2f} times as long as they need to be. {marks} marks from minimum to "
            "maximum, of each group for itself.")
    require(most_off <= 0.51,
            f"a weight is {most_off:.2f} steps away from minimum + scale · q; half a step is the most that "
            "rounding may cost.")


@exercise("16.decode_q8_0", hints=(
    "A block is two things side by side: 2 bytes that are one float16, and 32 bytes that are 32 signed "
    "numbers. Cut, then re-read each part as what it is.",
    "blocks[:, :2].view(torch.float16) reads each pair of bytes as one number, and .view(torch.int8) reads "
    "the byte 255 as −1. Convert both to float32 before you multiply.",
    "scale = blocks[:, :2].contiguous().view(torch.float16).float()  # [n, 1];  q = blocks[:, "
    "2:].contiguous().view(torch.int8).float();  return scale * q",
))
def decode_q8_0(decode):
    values = np.random.default_rng(16).normal(size=(5, 64)).astype(np.float32)
    values[0] *= 100
    kind = gguf.GGMLQuantizationType.Q8_0
    raw = gguf.quants.quantize(values, kind).reshape(-1, 34)
    want = torch.from_numpy(gguf.quants.dequantize(raw, kind))
    blocks = torch.from_numpy(raw)
    got = decode(blocks.clone())
    scale, body = _halves(blocks[:, :2]), blocks[:, 2:]
    last = _halves(blocks[:, 32:])
    first = blocks[:, :32].contiguous().view(torch.int8)
    explain(got, (
        (scale * body.float(), "the bytes are signed: where −1 is stored you read 255. Every negative "
                               "weight has become a large positive one."),
        (scale * (body.float() - 128), "subtracting 128 is for numbers that are stored as q + 128. These "
                                       "bytes are signed as they are: 255 is −1."),
        (last * first.float(), "the scale stands in the first two bytes of a block, not in its last."),
    ), unless=want)
    close(got, want, "the weights [n, 32]")
    return "Bit for bit what the gguf package reads."


def _halves(pairs: torch.Tensor) -> torch.Tensor:
    """Two bytes each, read as float16: [n, 1] float32."""
    return pairs.contiguous().view(torch.float16).float()


_MODELS = {            # name: weights, bits, weights that share a ruler, bytes/s, fixed seconds
    "8 billion weights on 3.35 TB/s, 4 bits in groups of 32, 1 ms fixed": (8e9, 4, 32, 3.35e12, 1e-3),
    "the same without fixed cost": (8e9, 4, 32, 3.35e12, 0.0),
    "135 million weights, 8 bits in groups of 64, 5 ms fixed": (135e6, 8, 64, 32e9, 5e-3),
}


@exercise("16.speed_up", hints=(
    "Write down the seconds of one token before and after. Only one of the two parts of each changes.",
    "Before: weights · 2 bytes / bandwidth + fixed. After: each weight takes `bits`, and its share of a "
    "ruler of 32 bits.",
    "bits_each = bits + 32 / group; after = weights · bits_each / 8 / bandwidth + fixed_seconds; return "
    "before / after.",
))
def speed_up(answer):
    for name, (weights, bits, group, bandwidth, fixed) in _MODELS.items():
        got = answer(weights, bits, group, bandwidth, fixed)

        def seconds(bits_each: float) -> float:
            return weights * bits_each / 8 / bandwidth + fixed

        stored = bits + 32 / group
        before, after = seconds(16), seconds(stored)
        want = before / after
        one_ruler = seconds(bits + 16 / group)
        bits_as_bytes = seconds(8 * stored)
        mistakes = (
            (before / seconds(bits), f"the rulers are missing: 32 bits for each {group} weights."),
            (16 / stored, "the fixed cost does not shrink with the weights. Amdahl: it stays in both times."),
            (16 / bits, "that is the ratio of the bits. Rulers take space, and the fixed cost stays."),
            (before / one_ruler, "a ruler is TWO numbers of 16 bits, minimum and scale."),
            (before / bits_as_bytes, "bandwidth counts bytes, and you have put bits into the second time."),
            (seconds(8 * 16) / bits_as_bytes, "bandwidth counts bytes, and both your times read bits."),
            (1 / want, "upside down: times as FAST is the old time over the new one."),
        )
        with about(name):
            explain(got, mistakes, unless=want)
            close(got, want, "the gain")
    return ("A 16-bit model of 8 billion weights, 4 bits: 2.3 times as fast with 1 ms of fixed cost, 3.2 "
            "without.")


_PASSES = {            # name: says, draft, stop ids, room, what is made
    "two right guesses, then a wrong one": ([5, 6, 7, 8], [5, 6, 9], set(), 99, [5, 6, 7]),
    "all guesses right": ([5, 6, 7, 8], [5, 6, 7], set(), 99, [5, 6, 7, 8]),
    "the first guess wrong": ([5, 6, 7], [4, 6], set(), 99, [5]),
    "wrong, and right again behind it": ([5, 6, 7, 8], [5, 0, 7], set(), 99, [5, 6]),
    "no guess at all": ([5], [], set(), 99, [5]),
    "a stop id among right guesses": ([5, 2, 7, 8], [5, 2, 7], {2}, 99, [5, 2]),
    "a stop id that nobody guessed": ([5, 2, 7], [5, 6], {2}, 99, [5, 2]),
    "a stop id behind a wrong guess": ([5, 6, 2], [5, 7], {2}, 99, [5, 6]),
    "room for two": ([5, 6, 7, 8], [5, 6, 7], set(), 2, [5, 6]),
    "room for one": ([5, 6], [5], set(), 1, [5]),
    "room ends before a wrong guess": ([5, 6, 9, 1], [5, 6, 7], set(), 1, [5]),
    "room ends behind a wrong guess": ([5, 6, 7, 8], [5, 0, 7], set(), 3, [5, 6]),
    "room ends before a stop id": ([5, 6, 2, 1], [5, 6, 2], {2}, 2, [5, 6]),
}


@exercise("16.tokens_made", hints=(
    "says[0] is always made. says[i] counts only if ALL guesses before it were right: when do you stop?",
    "Go through says in order. Take the token; then stop if it is a stop id, if there is no room left, if "
    "there is no guess for this place, or if the guess was another one.",
    "for i, token in enumerate(says): made.append(token); if token in stop_ids or len(made) == room or i == "
    "len(draft) or token != draft[i]: break",
))
def tokens_made(make):
    for name, (says, draft, stop, room, want) in _PASSES.items():
        got = answered(make(list(says), list(draft), set(stop), room))
        require(isinstance(got, list), f"{name}: a list of ids is wanted, not {type(got).__name__}.")
        if got == want:
            continue
        case = f"says {says}, draft {draft}, stop_ids {sorted(stop)}, room {room}"
        with about(f"{name}: {case}. You have {got}"):
            _explain_made(got, says, draft, room, ends=bool(stop))
            raise Wrong(f"{want} is wanted.")
    return "Thirteen edges. This is `accept`, and the end of a request."


def _explain_made(got: list[int], says: list[int], draft: list[int], room: int, ends: bool) -> None:
    """Raise Wrong with the reason, if it is a known one. `ends`: there are stop ids."""
    right = _agreeing(says, draft)
    made = len(got)
    if not ends and got == says[:right] and room > right:
        raise Wrong("the row behind the last right guess is a token, too, the model's own. Without it a pass "
                    "whose guesses are all wrong makes nothing, for ever.")
    if not ends and right + 1 < made <= room:
        raise Wrong("the row behind a wrong guess was computed for a text that does not exist. Nothing after "
                    "it counts, even if it looks right.")
    if made > room:
        raise Wrong(f"{made} tokens, and the user has paid for {room}.")
    if ends:
        raise Wrong("the text ends WITH its first stop id.")


def _agreeing(says: list[int], draft: list[int]) -> int:
    """How many guesses are right before the first wrong one."""
    for i, (said, guessed) in enumerate(zip(says, draft)):
        if said != guessed:
            return i
    return len(draft)


@exercise("16.keep_or_redraw", hints=(
    "Look at the picture: purple is what is kept, green is what a second draw must supply. Which share of "
    "q(x) is blue?",
    "keep = min(1, p/q), so that q · keep = min(p, q). The second draw supplies p − min(p, q), as "
    "probabilities: divide by its sum.",
    "keep = torch.where(q > 0, (p / q).clamp(max=1), 1.0); rest = (p − q).clamp(min=0); redraw = rest / "
    "rest.sum() if rest.sum() > 0 else p.",
))
def keep_or_redraw(rule):
    for name, (p, q) in _distributions().items():
        answer = answered(rule(p.clone(), q.clone()))
        pair(answer, "two tensors are wanted: keep, redraw.")
        keep, redraw = (torch.as_tensor(part, dtype=torch.float64) for part in answer)
        require(keep.shape == p.shape == redraw.shape,
                f"{name}: both tensors must be [{len(p)}]; yours are {list(keep.shape)} and "
                f"{list(redraw.shape)}.")
        empty = (p == 0) & (q == 0)
        if bool(keep[empty].isnan().any()):
            token = int(empty.nonzero()[0])
            raise Wrong(f"{name}: keep[{token}] is NaN. There p and q are both 0, and p / q is 0 divided by "
                        "0: look at q before you divide, torch.where chooses.")
        drawable = q > 0                                                 # what is never drawn is never kept
        kept = keep[drawable]
        require(is_finite(redraw) and is_finite(kept),
                f"{name}: there is a NaN. 0 divided by 0: is anything ever refused, or drawn, in this case?")
        largest = kept.max().item()
        require(kept.min() >= -1e-9 and largest <= 1 + 1e-9,
                f"{name}: keep reaches {largest:.2f}; a probability is at most 1. Where p > q, always keep.")
        require(redraw.min() >= -1e-9,
                f"{name}: redraw has negative probabilities. Only where p > q is anything missing.")
        keep = torch.where(drawable, keep, 0.0)
        with about(name):
            _judge_rule(p, q, keep, redraw)
    return "Exactly p, for every q, and no rule keeps more: the overlap of the two."


def _distributions() -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
    """Pairs of p, the model's, and q, the draft's."""
    generator = torch.Generator().manual_seed(5)

    def drawn(n: int) -> torch.Tensor:
        skewed = torch.rand(n, generator=generator, dtype=torch.float64).pow(3) + 1e-6
        return skewed / skewed.sum()

    third = torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64)
    sure = torch.tensor([0.0, 1.0, 0.0], dtype=torch.float64)
    cut = torch.tensor([0.6, 0.4, 0.0], dtype=torch.float64)
    return {
        "a random p and q over 7 tokens": (drawn(7), drawn(7)),
        "another, over 50 tokens": (drawn(50), drawn(50)),
        "q sure of one token": (third, sure),
        "p sure of one token": (sure, third),
        "p = q": (third, third),
        "a token that top-k has cut off for both": (cut, cut[[1, 0, 2]]),
    }


def _judge_rule(p: torch.Tensor, q: torch.Tensor, keep: torch.Tensor, redraw: torch.Tensor) -> None:
    """Raise Wrong unless the rule makes exactly p, and keeps as much as any rule can."""
    kept = float((q * keep).sum())
    refused = 1 - kept
    if refused > 1e-9:
        all_of_it = float(redraw.sum())
        require(_is(all_of_it, 1.0), f"redraw sums up to {all_of_it:.3f}, not to 1.")
    total = q * keep + refused * redraw
    if not torch.allclose(total, p, atol=1e-7):
        at = int((total - p).abs().argmax())
        got, want = total[at].item(), p[at].item()
        text = f"token {at} comes out with probability {got:.3f}; the model wants {want:.3f}."
        if torch.allclose(redraw, p, atol=1e-7):
            raise Wrong(f"{text} You draw again from p itself, so a token that was kept often already gets "
                        "a second chance.")
        raise Wrong(f"{text} q · keep + (share refused) · redraw must be p.")
    best = float(torch.minimum(p, q).sum())
    require(kept > best - 1e-6, f"exact, but only {kept:.0%} of the guesses are kept; {best:.0%} could be. "
                                "Keep with probability min(1, p/q).")


_BETS = (              # a, c, most guesses
    (0.75, 0.02, 10),
    (0.8, 0.1, 10),
    (0.6, 0.3, 10),
    (0.3, 0.5, 10),
    (0.9, 0.9, 10),
    (1.0, 0.1, 8),
    (0.0, 0.1, 8),
    (0.75, 0.02, 3),
    (0.95, 0.01, 16),
)


def _gain(a: float, c: float, k: int) -> float:
    """How many times as fast with k guesses; NaN for fewer than none."""
    if k < 0:
        return math.nan
    tokens = sum(a**i for i in range(k + 1))
    return tokens / (k * c + 1)


@exercise("16.best_k", hints=(
    "There are only most + 1 candidates. Compute the speed-up of each, and compare.",
    "tokens per pass = 1 + a + … + aᵏ: add it up, and a = 1 needs no special case. Divide by k·c + 1.",
    "return max(range(most + 1), key=lambda k: sum(a**i for i in range(k + 1)) / (k * c + 1))",
))
def best_k(choose):
    for a, c, most in _BETS:
        got = answered(choose(a, c, most))
        with about(f"a = {a}, c = {c}, at most {most}"):
            _judge_bet(got, a, c, most)
    return "A cheap and good draft earns many guesses, a dear one few, and one with a < c none."


def _judge_bet(got, a: float, c: float, most: int) -> None:
    want = max(range(most + 1), key=lambda k: _gain(a, c, k))
    whole = isinstance(got, int) and not isinstance(got, bool)
    require(whole, f"a whole number is wanted, not {got!r}.")
    mine, best = _gain(a, c, got), _gain(a, c, want)
    if got <= most and mine > best * (1 - 1e-9):                         # the best, or level with it
        return
    text = f"{got} guesses give {mine:.3f} times the speed, {want} give {best:.3f}."
    if got > most:
        raise Wrong(f"{text} And {most} was the most allowed.")
    if want == 0 and got == 1:
        raise Wrong(f"{text} Is 0 among your candidates? A draft that costs more than it is right should "
                    "stay silent.")
    if got == most:
        raise Wrong(f"{text} More guesses always make more tokens, but each costs c, and a late one counts "
                    "only if all before it were right.")
    raise Wrong(text)
