"""Judges and hints of notebook 06, model parallelism: a rank's program runs on threads, in float64."""

import math
from collections import Counter
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import silu

from aiinfra.lab.exercise import close, exercise, require
from aiinfra.lab.judging import Largest, about, answered, drawn, explain, is_finite, number, same
from aiinfra.lab.rank_programs import agree, run_ranks
from aiinfra.parallel.communicator import Communicator
from aiinfra.parallel.schedule import Action, PipelineTable, ScheduleError
from aiinfra.parallel.timing import StageCosts, time_table


@exercise("06.members", hints=(
    "How far apart in rank are two neighbours along a dimension? Along the last one: 1.",
    "Along dimension d it is the product of the sizes behind d, the stride. Take rank's own coordinate out "
    "of it, and put each possible one in.",
    "stride = math.prod(shape[dimension + 1:]); mine = rank // stride % shape[dimension]; return [rank + "
    "(i - mine) * stride for i in range(shape[dimension])]",
))
def members(answer):
    for shape in ((4,), (2, 3, 4), (2, 3), (3, 1, 2), (2, 2, 2, 2)):
        mesh = torch.arange(math.prod(shape)).view(shape)
        for rank in range(math.prod(shape)):
            for dimension in reversed(range(len(shape))):     # along the last one a block is right
                _judge_members(answer, mesh, rank, dimension)
    return "Nobody keeps a list: with 16,384 ranks it is the same three lines."


def _judge_members(answer, mesh: Tensor, rank: int, dimension: int) -> None:
    shape = tuple(mesh.shape)
    size = shape[dimension]
    want = _line(mesh, rank, dimension)
    backwards = torch.arange(mesh.numel()).view(shape[::-1]).permute(*range(mesh.ndim)[::-1])
    coordinates = (mesh == rank).nonzero()[0]
    slab = mesh.select(dimension, coordinates[dimension]).flatten()
    first = rank // size * size
    with about(f"rank {rank} of a mesh {shape}, dimension {dimension}"):
        got = answered(answer(rank, shape, dimension))
        require(isinstance(got, list | tuple), f"a list of ranks is wanted; you returned {got!r}.")
        have = f"you have {got}"
        mistakes = (
            (_line(backwards, rank, dimension),
             f"{have}: there the first coordinate changes fastest. It is the last one that does."),
            ([other for other in want if other != rank],
             f"{have}: rank {rank} is a member of its own group."),
            (slab,
             f"{have}: those have the same coordinate {dimension}. Wanted are those that have the same OTHER "
             "coordinates."),
            (range(first, first + size),
             f"{have}, a block of neighbours. Only along the last dimension are members neighbours in rank."),
            (want[::-1],
             f"{have}; ascending order is wanted."),
        )
        explain(got, [(list(value), message) for value, message in mistakes], unless=want)
        require(same(got, want), f"{have}; {want} is wanted.")


def _line(mesh: Tensor, rank: int, dimension: int) -> list[int]:
    """The ranks on the line through `rank` along a dimension."""
    at = (mesh == rank).nonzero()[0].tolist()
    at[dimension] = slice(None)
    return mesh[tuple(at)].tolist()


@exercise("06.uneven", hints=(
    "A mean is a sum and a count. Sums and counts may be added up over the ranks, means may not.",
    "Make the gradient of the sum: gradient · count, and zeros if there is no row (0 · NaN is NaN). "
    "All-reduce it, all-reduce the count, divide.",
    "total = all_reduce(torch.tensor([float(count)]), comm); part = gradient * count if count else "
    "torch.zeros_like(gradient); return all_reduce(part, comm) / total",
))
def uneven(answer):
    for counts in ((5, 1), (3, 3), (7, 2, 4), (0, 4), (6, 0, 0, 2)):
        given = []
        for rank, count in enumerate(counts):
            mean = drawn(rank, count, 3, 2).mean(0)           # NaN without rows
            given.append(mean)
        with about(f"ranks with {' and '.join(map(str, counts))} rows"):
            _judge_uneven(answer, given, counts)
    return "This is why the loop of this library counts the valid tokens of a whole step before it begins."


def _judge_uneven(answer, given: list[Tensor], counts: Sequence[int]) -> None:
    zeros = [torch.nan_to_num(mean) for mean in given]
    total = sum(counts)
    weighted = sum(mean * count for mean, count in zip(zeros, counts, strict=True))
    want = weighted / total
    busy = sum(count > 0 for count in counts)

    def program(comm: Communicator) -> Tensor:
        return answer(given[comm.rank].clone(), counts[comm.rank], comm)

    results, _ = run_ranks(program, len(counts))
    for result in results:
        require(isinstance(result, Tensor), f"a tensor is wanted; a rank returned {result!r}.")
        require(is_finite(result), "NaN or infinity came out. The gradient of a rank without rows is NaN, "
                                   "0 · NaN is NaN, and one NaN is enough for a sum: such a rank adds zeros.")
    mean_of_means = "that is a mean of means: a row counts the more, the fewer rows its rank has."
    mistakes = (
        (sum(zeros) / len(counts), mean_of_means),
        (sum(zeros) / busy, mean_of_means),
        (weighted, "that is the gradient of the sum: it has not been divided by the number of all rows."),
        (weighted / len(counts), "divide by the number of all rows, not of ranks."),
        (sum(zeros), "the ranks' means are added up; make sums of them first."),
        (zeros[0], "that is the gradient of this rank's rows alone."),
    )
    explain(results[0], mistakes, unless=want)
    agree(results, "the gradient")
    close(results[0], want, "the gradient")


@exercise("06.norm", hints=(
    "A length is the root of a sum of squares. Which squares does one rank know that no other one knows?",
    "Add up the squares of the pieces over the ranks with one all_reduce of one number. The copies' squares "
    "are known to everybody already: add them after it, and then take the root.",
    "mine = torch.zeros(1, dtype=torch.float64); for p in pieces: mine = mine + p.square().sum(); total = "
    "all_reduce(mine, comm); for c in copies: total = total + c.square().sum(); return total.sqrt().item()",
))
def norm(answer):
    for ranks, pieces, copies in ((2, 2, 1), (4, 1, 2), (3, 2, 0), (2, 0, 2), (4, 3, 1)):
        with about(f"{ranks} ranks, {pieces} pieces and {copies} copies on each"):
            _judge_norm(answer, ranks, pieces, copies)
    return "A copy that is counted on every rank made the norm up to 1.5 times too long, in code in wide use."


def _judge_norm(answer, ranks: int, pieces: int, copies: int) -> None:
    cut = [[drawn(10 * rank + i, 40 + rank, 7) for i in range(pieces)] for rank in range(ranks)]
    same_everywhere = [3 * drawn(100 + i, 300) for i in range(copies)]
    by_rank = [_squares(mine) for mine in cut]
    shared = _squares(same_everywhere)
    want = math.sqrt(sum(by_rank) + shared)

    def program(comm: Communicator) -> float:
        mine = [piece.clone() for piece in cut[comm.rank]]
        all_s = [copy.clone() for copy in same_everywhere]
        return float(answer(mine, all_s, comm))

    results, sent = run_ranks(program, ranks)
    roots = map(math.sqrt, by_rank)
    with_copies = [math.sqrt(square + shared) for square in by_rank]
    last = "lengths do not add up, squares do: the root comes last."
    mistakes = (
        (math.sqrt(sum(by_rank) + ranks * shared),
         "the copies are counted once a rank. They are one gradient that everybody has."),
        (with_copies[0], "that is the length of what one rank has."),
        (math.sqrt(sum(by_rank)), "the copies are left out."),
        (want**2, "the root is missing."),
        (sum(roots) + math.sqrt(shared), last),
        (sum(with_copies), last),
    )
    explain(number(results[0], "the length"), mistakes, unless=want)
    agree(results, "the length")
    close(results[0], want, "the length")
    require(sent <= 200, f"right, but a rank sent {sent:,} bytes, whole gradients. Add up the squares first: "
                         "one number has to travel.")


def _squares(tensors: list[Tensor]) -> float:
    return sum(tensor.square().sum().item() for tensor in tensors)


@exercise("06.gated", hints=(
    "Which numbers of g does silu(g) · u need beside which numbers of u? Those of the same place. Which "
    "columns of down are they multiplied with?",
    "Cut gate_up into its halves first, and then each half by rows, the rank-th part of each; down by "
    "columns, the rank-th part. What comes out is a part of a sum.",
    "gate, up = gate_up.chunk(2); g, u = (x @ w.chunk(comm.size)[comm.rank].T for w in (gate, up)); part = "
    "(silu(g) * u) @ down.chunk(comm.size, dim=1)[comm.rank].T; return all_reduce(part, comm)",
))
def gated(answer):
    for ranks in (1, 3, 4):
        with about("one rank" if ranks == 1 else f"{ranks} ranks"):
            _judge_gated(answer, ranks)
    return ("One all-reduce of [N, D], and no rank has seen more than its part. A cut of the stack would "
            "have given some ranks gates without ups.")


def _judge_gated(answer, ranks: int) -> None:
    N, D, F = 16, 4, 24
    x, gate_up, down = drawn(1, N, D), drawn(2, 2 * F, D), drawn(3, D, F)
    gate, up = gate_up.chunk(2)
    want = _gated(x, gate, up, down)
    columns = down.chunk(ranks, dim=1)

    def program(comm: Communicator) -> tuple[Tensor, int, list[int]]:
        with Largest() as largest:
            y = answered(answer(x.clone(), gate_up.clone(), down.clone(), comm))
        return y, largest.values, largest.shape

    ran, sent = run_ranks(program, ranks)
    results = [y for y, _, _ in ran]
    require(isinstance(results[0], Tensor), f"a tensor is wanted; a rank returned {results[0]!r}.")
    stack = []
    for rows, part in zip(gate_up.chunk(ranks), columns, strict=True):
        stack.append(_gated(x, *rows.chunk(2), part))
    first = _gated(x, gate.chunk(ranks)[0], up.chunk(ranks)[0], columns[0])
    mistakes = (
        (sum(stack), "that is what comes out if the STACK is cut: rank 0 then has gates alone, and "
                     "multiplies gates with gates. Cut gate and up, each by itself."),
        (first, "that is rank 0's part of the sum: the parts must be added up."),
        (_gated(x, up, gate, down), "gate and up are swapped: the first half is the gate."),
        (want * ranks, "every rank has computed all of it, and then the ranks were added up."),
    )
    explain(results[0], mistakes, unless=want)
    agree(results, "y")
    close(results[0], want, "y")
    for _, values, shape in ran:
        most = 2 * F * N // ranks
        require(values <= most, f"right, but a rank made a tensor of shape {shape}: that is more than its "
                                "part of the arithmetic.")
    once = 2 * x.nbytes
    due = once - once // ranks
    require(sent <= once, f"right, but a rank sent {sent:,} bytes; one all-reduce of y takes {due:,}.")


def _gated(x: Tensor, gate: Tensor, up: Tensor, down: Tensor) -> Tensor:
    opened = silu(x @ gate.T)
    h = opened * (x @ up.T)
    return h @ down.T


@exercise("06.vocabulary_loss", hints=(
    "Two things are asked of the other ranks: the log of the sum over ALL words, and the target's logit, "
    "which one rank has.",
    "A rank's torch.logsumexp(logits, 1) is one number a row; all_gather those of all ranks into [size, N] "
    "and take logsumexp once more. For the target: zero where it is not mine, and all_reduce.",
    "words = logits.shape[1]; at = targets - comm.rank * words; mine = (at >= 0) & (at < words); hit = "
    "logits.gather(1, at.clamp(0, words - 1)[:, None])[:, 0] * mine; part = logits.logsumexp(1); all of "
    "them: all_gather(part, torch.empty(comm.size, len(part), dtype=part.dtype), comm).logsumexp(0) minus "
    "all_reduce(hit, comm)",
))
def vocabulary_loss(answer):
    cases = {
        "2 ranks": (2, 1.0, 0.0),
        "4 ranks": (4, 3.0, 0.0),
        "logits in the thousands": (4, 2000.0, 0.0),
        "logits that are all below −1,000": (3, 1.0, -2000.0),
        "one rank": (1, 1.0, 0.0),
    }
    for seed, (case, (ranks, scale, shift)) in enumerate(cases.items()):
        logits = scale * drawn(seed, 6, 64 * ranks) + shift
        with about(case):
            _judge_loss(answer, logits, ranks)
    return "For a vocabulary of 128,256 words a few numbers a row travel, in place of 128,256."


def _judge_loss(answer, logits: Tensor, ranks: int) -> None:
    N, V = logits.shape
    words = V // ranks
    targets = torch.tensor([0, V - 1, words - 1, V // 2, V // 3, words % V])
    parts = logits.chunk(ranks, dim=1)
    want = logits.logsumexp(1) - _pick(logits, targets)
    results, sent = run_ranks(lambda comm: answer(parts[comm.rank].clone(), targets.clone(), comm), ranks)
    require(isinstance(results[0], Tensor), f"a tensor is wanted; a rank returned {results[0]!r}.")
    require(is_finite(results[0]), "NaN or infinity came out: exp(2000) is infinite, and exp(−2000) is 0, "
                                   "whose log is. torch.logsumexp takes care of that within a rank; between "
                                   "ranks it is yours.")
    explain(results[0], _loss_mistakes(logits, targets, ranks), unless=want)
    agree(results, "the loss")
    close(results[0], want, "the loss")
    require(sent <= 160 * N, f"right, but a rank sent {sent / N:,.0f} bytes a row. A few numbers have to "
                             "do: do not gather logits.")


def _loss_mistakes(logits: Tensor, targets: Tensor, ranks: int) -> list[tuple[Tensor, str]]:
    parts = logits.chunk(ranks, dim=1)
    whole = logits.logsumexp(1)
    hit = _pick(logits, targets)
    own = [part.logsumexp(1) for part in parts]
    most = [part.amax(1) for part in parts]
    sums = [(log - top).exp() for log, top in zip(own, most, strict=True)]
    in_each = sum(_pick(part, targets % part.shape[1]) for part in parts)
    return [
        (sum(own) - hit, "the ranks' logs are added up: that is the log of a product. Take their logsumexp."),
        (own[0] - hit, "the sum is over rank 0's words alone."),
        (whole, "the target's logit is not subtracted."),
        (whole - in_each, "every rank has found a target among its words. Only one has it: the others add "
                          "zero."),
        (sum(sums).log() + most[0] - hit, "each rank has subtracted its own maximum, and then the sums were "
                                          "added: they are in different units."),
        (hit - whole, "the sign is the wrong way round."),
        ((whole - hit).mean(), "the loss of each row is wanted, not their mean."),
    ]


def _pick(logits: Tensor, words: Tensor) -> Tensor:
    return logits.gather(1, words[:, None])[:, 0]


_TABLES = (                                    # the rows of a schedule, and what is wrong with them, if so
    ("FB",),
    ("FFBB", "FBFB"),
    ("FFFBBB", "FFFBBB"),
    ("FFFFBBBB", "FFFFBBBB", "FFFFBBBB"),
    ("FFFBFBFBBB", "FFBFBFBFBB", "FBFBFBFBFB"),
    ("FFFFBBBB", "FFBFBFBB", "FBFBFBFB"),
    ("FBFB", "FBFB"),
    ("FBFB", "FFBB"),                          # stage 0 waits for a B that stage 1 does after its second F
    ("BF",),
    ("FFFBFBFBFBFBBB", "FFFBFBFBFBFBBB", "FFBFBFBFBFBFBB", "FBFBFBFBFBFBFB"),
    ("FFBB", "FBFB", "FFBB", "FBFB"),
)


@exercise("06.makespan", hints=(
    "Keep for each stage how far it is in its row and when it will be free, and for each pass that is done "
    "when it ended. Then try the stages again and again.",
    "A stage's next pass can begin when the stage is free AND what it needs has ended. If in a whole round "
    "over all stages nobody could do anything and somebody is not done: None.",
    "need = ('F', i, s - 1) for F, ('B', i, s + 1) for B, ('F', i, s) for B on the last stage; if need is in "
    "ended (or s == 0 for F): free[s] = ended[work, i, s] = max(free[s], ended.get(need, 0)) + (1 if work == "
    "'F' else 2).",
))
def makespan(answer):
    for table in _TABLES:
        want = _makespan(table)
        with about(f"{list(table)}"):
            got = answered(answer(list(table)))
            if want is None:
                require(got is None, f"you say {got!r}, but these stages wait for each other for ever: None.")
                continue
            _judge_makespan(got, table, want)
    return "PyTorch checks the tables of its schedules like this, and so can you, without a single device."


def _judge_makespan(got: Any, table: Sequence[str], want: float) -> None:
    require(got is not None, f"you say None, but all of it is done after {want:g}.")
    busy = [row.count("F") + 2 * row.count("B") for row in table]
    explain(number(got, "the time"), (
        (max(busy), "that is how long the busiest stage computes; it has to wait as well."),
        (_makespan(table, backward=1), "backward passes take 2 units of time, not 1."),
        (_no_backward_waits(table), "a backward pass waits, too: for that of the stage after it."),
        (sum(busy), "that is all the work one after another; stages work at the same time."),
    ), unless=want)
    require(got == want, f"you say {got}; all of it is done after {want:g}.")


def _makespan(table: Sequence[str], backward: float = 2) -> float | None:
    """When all is done, by the library's clock; None if the stages wait for each other."""
    rows = []
    for stage, row in enumerate(table):
        seen: Counter[str] = Counter()
        actions = []
        for kind in row:
            actions.append(Action(stage, kind, seen[kind]))
            seen[kind] += 1
        rows.append(tuple(actions))
    costs = StageCosts(forward=1, input=backward / 2, weight=backward / 2)
    try:
        return time_table(PipelineTable("", tuple(rows)), costs).seconds
    except ScheduleError:
        return None


def _no_backward_waits(table: Sequence[str]) -> float:
    """The same, if only forward passes waited."""
    arrived = [0.0] * len(table[0])
    for row in table:
        free, leaving = 0.0, []
        for work in row:
            if work == "B":
                free += 2
                continue
            free = 1 + max(free, arrived[len(leaving)])
            leaving.append(free)
        arrived = leaving
    return free
