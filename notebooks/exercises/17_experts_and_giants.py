"""Judges and hints of notebook 17, experts and giants: a rank's program runs on threads, in float64."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from aiinfra.lab.boxes import boxes, judge_users, sizing
from aiinfra.lab.exercise import Wrong, close, exercise, require
from aiinfra.lab.judging import Largest, about, answered, drawn, explain, is_finite, pair, same
from aiinfra.lab.rank_programs import agree, run_ranks
from aiinfra.parallel.communicator import Communicator


@exercise("17.choose", hints=(
    "Two different numbers belong to each expert: by one it is chosen, by the other it is weighed.",
    "topk of scores + bias gives indices; scores.gather(1, indices) the scores at these places. Only then "
    "divide by the sum of the k.",
    "scores = logits.sigmoid(); experts = (scores + bias).topk(k).indices; weights = scores.gather(1, "
    "experts); return experts, weights / weights.sum(-1, keepdim=True)",
))
def choose(answer):
    cases = (
        (6, 8, 2),
        (5, 16, 4),
        (4, 8, 1),
    )
    for seed, (tokens, count, k) in enumerate(cases):
        logits, bias = drawn(seed, tokens, count), 0.5 * drawn(100 + seed, count)
        with about(f"{tokens} tokens, {k} of {count} experts"):
            _judge_choice(answer, logits, bias, k)
    return "The bias moves the load and leaves the weights alone: nothing that the model has learnt is bent."


def _judge_choice(answer, logits: Tensor, bias: Tensor, k: int) -> None:
    got = answered(answer(logits.clone(), bias.clone(), k))
    pair(got, "return two tensors: experts [N, k] and weights [N, k].")
    experts, weights = got
    shape = (len(logits), k)
    for name, part in (("experts", experts), ("weights", weights)):
        require(isinstance(part, Tensor) and part.shape == shape,
                f"{name}: a tensor of shape {list(shape)} is wanted.")
    require(experts.dtype == torch.int64,
            f"experts must be int64, as topk(…).indices are; they are {experts.dtype}.")
    require(0 <= experts.min() <= experts.max() < len(bias), f"experts are numbered 0 to {len(bias) - 1}.")
    mine = torch.zeros_like(logits).scatter(1, experts, weights.to(logits.dtype))
    scores = logits.sigmoid()
    biased = scores + bias
    want = _weighed(biased, scores, k)
    soft = logits.softmax(-1)
    explain(mine, (
        (_weighed(biased, biased, k),
         "the bias is in the weights. It chooses; it does not weigh."),
        (_weighed(scores, scores, k),
         "the bias has not taken part in the choice."),
        (_weighed(biased, scores, k, whole=True),
         "divide by the sum of the token's k scores, not of all experts' scores."),
        (_weighed(biased, scores, k, sums=False),
         "a token's weights must add up to 1: divide them by their sum."),
        (_weighed(soft + bias, soft, k),
         "softmax makes experts compete; DeepSeek's scores are sigmoids, each by itself."),
        (_weighed(logits + bias, scores, k),
         "the bias is added to the scores, behind the sigmoid, not to the logits."),
    ), unless=want)
    right = want.topk(k).indices.sort().values
    require(same(experts.sort().values, right), f"token 0 takes experts {experts[0].sort().values.tolist()}; "
                                                f"{right[0].tolist()} are wanted.")
    close(mine, want, "the weights, put at their experts' places")


def _weighed(by: Tensor, scores: Tensor, k: int, whole: bool = False, sums: bool = True) -> Tensor:
    """The weights [N, E] of those that are best by `by`, 0 elsewhere."""
    experts = by.topk(k).indices
    weights = scores.gather(1, experts)
    if whole:
        weights = weights / scores.sum(-1, keepdim=True)
    elif sums:
        weights = weights / weights.sum(-1, keepdim=True)
    return torch.zeros_like(scores).scatter(1, experts, weights)


@exercise("17.capacity", hints=(
    "For each choice: how many earlier choices are there of the same expert? Fewer than capacity: keep it.",
    "one_hot(experts.flatten(), count) is [N · k, count]; its cumsum(0) counts each expert's choices so far. "
    "A loop with one counter for each expert does it as well.",
    "seen = [0] * count; keep = torch.zeros_like(experts, dtype=torch.bool); for n, row in "
    "enumerate(experts.tolist()): for i, e in enumerate(row): keep[n, i] = seen[e] < capacity; seen[e] += 1",
))
def capacity(answer):
    cases = (
        (8, 4, 2, 3),
        (20, 8, 2, 4),
        (6, 4, 3, 0),
        (9, 3, 2, 50),
    )
    for seed, (tokens, count, k, most) in enumerate(cases):
        generator = torch.Generator().manual_seed(seed)
        popular = torch.arange(count) / 6
        drawn = torch.rand(tokens, count, generator=generator) - popular
        experts = drawn.topk(k).indices
        with about(f"{tokens} tokens, {k} of {count} experts, capacity {most}"):
            _judge_capacity(answer, experts, count, most)
    return "A dropped choice is a token that this layer treats as if the expert had said 0."


def _judge_capacity(answer, experts: Tensor, count: int, most: int) -> None:
    got = answered(answer(experts.clone(), count, most))
    require(isinstance(got, Tensor), f"a tensor is wanted; you returned {got!r}.")
    require(got.shape == experts.shape, f"shape {list(got.shape)}, but {list(experts.shape)} is wanted.")
    require(got.dtype == torch.bool, f"a boolean tensor is wanted; yours is {got.dtype}.")
    want = _kept(experts, most)
    by_column = _kept(experts.T.reshape(-1, 1), most).view(experts.T.shape).T
    backwards = _kept(experts.flip(0), most).flip(0)
    whole_tokens = want.all(1, keepdim=True).expand_as(want)
    explain(got, (
        (_kept(experts, most + 1),
         "one choice too many: an expert takes at most `capacity`."),
        (_kept(experts, most - 1),
         "one choice too few is kept: `capacity` of them fit."),
        (by_column,
         "all first choices came before all second ones. Token 0's second comes before token 1's first."),
        (backwards,
         "you keep those of the last tokens; the first ones are kept."),
        (whole_tokens,
         "a token that loses one choice keeps the others."),
        (_kept_of_all(experts, most),
         "each expert has a capacity of its own; you count all choices together."),
        (~want,
         "True means kept."),
    ), unless=want)
    wrong = (got != want).nonzero()
    if len(wrong):
        n, i = wrong[0].tolist()
        e = experts[n, i].item()
        place = n * experts.shape[1] + i
        before = experts.flatten()[:place].tolist()
        earlier = before.count(e)
        said = "kept" if got[n, i] else "dropped"
        raise Wrong(f"token {n}'s choice {i} is expert {e}, which {earlier} earlier choices have taken; you "
                       f"have {said} it.")


def _kept(experts: Tensor, most: int) -> Tensor:
    """By a counter for each expert."""
    seen: dict[int, int] = {}
    keep = []
    for e in experts.flatten().tolist():
        keep.append(seen.get(e, 0) < most)
        seen[e] = seen.get(e, 0) + 1
    return torch.tensor(keep).view(experts.shape)


def _kept_of_all(experts: Tensor, most: int) -> Tensor:
    places = torch.arange(experts.numel())
    return (places < most).view(experts.shape)


@exercise("17.own_experts", hints=(
    "Start from zeros. Which rows of x have chosen one of this rank's experts, and with which weight?",
    "(experts == e).nonzero(as_tuple=True) gives tokens and places of those that chose e. ADD weight · row @ "
    "matrix.T at these tokens. At the end one all_reduce.",
    "y = torch.zeros_like(x); for i, matrix in enumerate(matrices): token, place = (experts == comm.rank * "
    "len(matrices) + i).nonzero(as_tuple=True); y[token] += weights[token, place, None] * (x[token] @ "
    "matrix.T); return all_reduce(y, comm)",
))
def own_experts(answer):
    cases = (
        (2, 4, 2),
        (4, 8, 3),
        (1, 4, 2),
        (4, 4, 2),
    )
    for seed, (ranks, count, k) in enumerate(cases):
        with about("one rank" if ranks == 1 else f"{ranks} ranks, {k} of {count} experts"):
            _judge_own_experts(answer, seed, ranks, count, k)
    return "One sum a layer, as under tensor parallel; and no token had to be sent to its expert."


def _judge_own_experts(answer, seed: int, ranks: int, count: int, k: int) -> None:
    N, D = 12, 8
    x, all_of_them = drawn(seed, N, D), drawn(seed + 50, count, D, D)
    scores = drawn(seed + 90, N, count)
    scores[:, count // 2] -= 100                                   # an expert that nobody takes
    even = scores.softmax(-1)
    weights, experts = even.topk(k)
    weights = weights / weights.sum(-1, keepdim=True)
    parts = all_of_them.chunk(ranks)

    def program(comm: Communicator) -> Tensor:
        return answer(x.clone(), experts.clone(), weights.clone(), parts[comm.rank].clone(), comm)

    results, sent = run_ranks(program, ranks)
    require(isinstance(results[0], Tensor), f"a tensor is wanted; a rank returned {results[0]!r}.")
    mixture = _Mixture(x, experts, weights)
    want = mixture.of(all_of_them)
    explain(results[0], _own_mistakes(mixture, parts, want), unless=want)
    agree(results, "y")
    close(results[0], want, "y")
    require(sent <= 2 * x.nbytes, f"right, but a rank sent {sent:,} bytes; one all-reduce of y takes "
                                  f"{2 * x.nbytes * (ranks - 1) // ranks:,}.")


@dataclass(frozen=True)
class _Mixture:
    """Tokens and their choices; known mistakes are made with other weights or matrices."""

    x: Tensor
    experts: Tensor
    weights: Tensor

    def of(self, matrices: Tensor, first: int = 0, overwrite: bool = False) -> Tensor:
        """The sum over experts first, first + 1, … with these matrices."""
        y = torch.zeros_like(self.x)
        for e, matrix in enumerate(matrices, first):
            token, place = (self.experts == e).nonzero(as_tuple=True)
            made = self.x[token] @ matrix.T
            part = self.weights[token, place].unsqueeze(-1) * made
            if not overwrite:
                part = part + y[token]
            y[token] = part
        return y


def _own_mistakes(mixture: _Mixture, parts: Sequence[Tensor], want: Tensor) -> list[tuple[Tensor, str]]:
    own = len(parts[0])
    even = _Mixture(mixture.x, mixture.experts, torch.ones_like(mixture.weights))
    matrices = torch.cat(list(parts))
    overwritten = [mixture.of(part, rank * own, overwrite=True) for rank, part in enumerate(parts)]
    return [
        (mixture.of(parts[0]),
         "that is rank 0's part of the sum: the parts must be added up."),
        (sum(mixture.of(part) for part in parts),
         "every rank has taken experts 0, 1, …: expert number i of a rank is rank · len(matrices) + i."),
        (sum(overwritten),
         "a token with two experts on one rank has lost the first one: add, do not overwrite."),
        (even.of(matrices),
         "the weights are missing."),
        (mixture.of(matrices.transpose(1, 2)),
         "expert e makes row @ matrix.T; the transposition is missing."),
        (want / len(parts),
         "a sum over ranks is wanted, not a mean."),
    ]


@exercise("17.place", hints=(
    "Keep two lists, one number a rank: the load so far, and the free places.",
    "Go through the copies from the heaviest on, but remember each one's number. min over the ranks that "
    "have room, by load; Python's min takes the first of equal ones.",
    "for copy in sorted(range(len(loads)), key=lambda i: -loads[i]): rank = min((r for r in range(ranks) if "
    "room[r]), key=total.__getitem__); where[copy] = rank; total[rank] += loads[copy]; room[rank] -= 1",
))
def place(answer):
    cases = (
        ([6, 11, 8, 2, 1, 1], 2),
        ([9, 5, 4, 4], 2),
        ([10, 1, 1, 1, 1, 1], 2),
        ([7, 2, 5], 1),
        ([1, 8, 1, 8, 1, 8, 6, 6, 6], 3),
    )
    for loads, ranks in cases:
        with about(f"loads {loads} on {ranks} ranks"):
            got = answered(answer(list(loads), ranks))
            _judge_place(got, loads, ranks)
    return "DeepSeek's balancer packs so, too: first groups of experts on nodes, then copies on GPUs."


def _judge_place(got, loads: list[int], ranks: int) -> None:
    require(isinstance(got, list | tuple), f"a list of ranks is wanted; you returned {got!r}.")
    got, places = list(got), len(loads) // ranks
    require(len(got) == len(loads), f"you name {len(got)} ranks for {len(loads)} copies.")
    want = _placed(loads, ranks, places)
    mine = [0] * ranks
    for load, rank in zip(loads, got, strict=True):
        require(rank in range(ranks), f"{rank!r} is no rank: they are numbered from 0 to {ranks - 1}.")
        mine[rank] += load
    numbers = range(len(loads))
    by_number = [i // places for i in numbers]
    like_cards = [i % ranks for i in numbers]
    mistakes = (
        (_placed(loads, ranks, len(loads)),
         f"{got}: a rank has {places} places, and you put more there."),
        (_placed(loads, ranks, places, ordered=False),
         f"{got}: take the heaviest first, not the first one."),
        (_placed(loads, ranks, places, sign=-1),
         f"{got}: that begins with the lightest."),
        (by_number,
         f"{got}: that is by number, whatever the load; the ranks get {mine}."),
        (like_cards,
         f"{got}: that deals them out like cards, whatever the load; the ranks get {mine}."),
        (_by_weight(want, loads),
         f"{got} is in the order of weight; the order of `loads` is wanted."),
        (_fewest_first(loads, ranks),
         f"{got}: to the rank with the smallest load, not with the fewest copies."),
    )
    explain(got, mistakes, unless=want)
    require(got == want, f"{got} gives the ranks loads {mine}; greedily it is {want}.")


def _placed(loads: list[int], ranks: int, places: int, ordered: bool = True, sign: int = 1) -> list[int]:
    total, room, where = [0] * ranks, [places] * ranks, [0] * len(loads)
    order = range(len(loads))
    if ordered:
        order = sorted(order, key=lambda i: -sign * loads[i])
    for i in order:
        free = [rank for rank in range(ranks) if room[rank]]
        rank = min(free, key=total.__getitem__)
        where[i] = rank
        total[rank] += loads[i]
        room[rank] -= 1
    return where


def _by_weight(where: list[int], loads: list[int]) -> list[int]:
    order = _heaviest_first(loads)
    return [where[i] for i in order]


def _heaviest_first(loads: list[int]) -> list[int]:
    numbers = range(len(loads))
    return sorted(numbers, key=lambda i: -loads[i])


def _fewest_first(loads: list[int], ranks: int) -> list[int]:
    """The heaviest first, each to the rank with the fewest copies."""
    where = [0] * len(loads)
    order = _heaviest_first(loads)
    for turn, i in enumerate(order):
        where[i] = turn % ranks
    return where


@exercise("17.latent_scores", hints=(
    "q · (W c) has three factors. Which two of them do not grow with the number of kept rows?",
    "First q with to_key: [H, Dh] and [H, Dh, R] give [H, R], a query in the language of c. Then with c.",
    "torch.einsum('hd,hdr->hr', q, to_key) @ c.T",
))
def latent_scores(answer):
    cases = (
        (4, 8, 6, 50),
        (2, 16, 32, 200),
    )
    for seed, (H, Dh, R, T) in enumerate(cases):
        q, to_key, c = drawn(seed, H, Dh), drawn(seed + 10, H, Dh, R), drawn(seed + 20, T, R)
        with about(f"{H} heads of {Dh}, rows of {R}, {T} tokens"):
            _judge_scores(answer, q, to_key, c)
    return "128 heads, 100,000 tokens: 12.8 million scores a layer, and none of 1.6 billion numbers of keys."


def _judge_scores(answer, q: Tensor, to_key: Tensor, c: Tensor) -> None:
    (H, Dh), T = q.shape, len(c)
    with Largest() as largest:
        got = answered(answer(q.clone(), to_key.clone(), c.clone()))
    require(isinstance(got, Tensor), f"a tensor is wanted; you returned {got!r}.")
    require(is_finite(got), "NaN or infinity came out.")
    short = torch.einsum("hd,hdr->hr", q, to_key)
    want = short @ c.T
    explain(got, (
        (want.T,
         f"[T, H] came out; [H, T] is wanted: {[H, T]}."),
        (want.sum(0),
         "the heads are added up; each has its own scores."),
        (want / Dh**0.5,
         "not scaled, says the text."),
        (want.softmax(-1),
         "no softmax, says the text: the scores themselves."),
        (short,
         "that is the compressed query [H, R]; now compare it with the rows c."),
        (torch.einsum("hd,gdr,tr->ht", q, to_key, c),
         "every head has met the matrices of all heads."),
    ), unless=want)
    close(got, want, "the scores")
    allowed = max(H * T, to_key.numel(), c.numel())
    require(largest.values <= allowed, f"right, but a tensor of shape {largest.shape} was made: that is "
                                       "every head's key of every token. Move to_key to the query's side.")


@exercise("17.users", hints=(
    "Two limits, each with its own largest number of users. The answer is the smaller one. Which is it?",
    "By memory: free // each, a whole number, and never below 0. By time: count up while step_seconds(users "
    "+ 1) <= limit, and no further than memory allows.",
    "fit = max(0, int(free // each)); users = 0; while users < fit and step_seconds(users + 1) <= limit: "
    "users += 1; return users, 'memory' if users == fit else 'time'",
))
def users(answer):
    for box in boxes():
        with about(box.said):
            judge_users(answer, box)
    return sizing(answer)
