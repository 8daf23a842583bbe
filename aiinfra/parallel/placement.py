"""Where experts should live, from how loaded they are: favourites get copies, and each device the same load.

    logical experts   0  1  2 … 11          loads that were counted
          │ groups to nodes: a token takes from few groups, so a group's experts stay on one node
          │ copies: the expert with the highest load a copy gets one more, until all places are taken
          ▼ places to devices: the heaviest first, each to the lightest device that has a place
    physical places   5  6 │ 5  7 │ 8  4 │ …     a device's are neighbours

The greedy rules of DeepSeek's expert-parallel load balancer (EPLB, 2025), written anew: the example in its
README comes out place by place. Imbalance costs as much as the fullest device is above the mean. Notebook 17.
"""

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Placement:
    """Which expert is at each physical place, device by device."""

    experts: tuple[int, ...]           # of each place
    devices: int

    @property
    def by_device(self) -> list[tuple[int, ...]]:
        """Each device's experts."""
        each = len(self.experts) // self.devices
        return [self.experts[start:start + each] for start in range(0, len(self.experts), each)]

    def copies(self, expert: int) -> int:
        """How many places have this expert."""
        return self.experts.count(expert)

    def loads(self, counts: Sequence[float]) -> list[float]:
        """Each device's load where these were counted, if an expert's tokens are dealt among its copies."""
        return [sum(counts[expert] / self.copies(expert) for expert in on_device)
                for on_device in self.by_device]

    def imbalance(self, counts: Sequence[float]) -> float:
        """The fullest device's load over the mean: 1 is perfect, and a step takes that much longer."""
        loads = self.loads(counts)
        return max(loads) * len(loads) / sum(loads)


def balance(counts: Sequence[float], places: int, devices: int, groups: int = 1, nodes: int = 1) -> Placement:
    """Places for experts with these loads on `devices`, as many on each.

    groups: the router's; where nodes divide them, a group stays on a node. Raises ValueError for what cannot
    be dealt evenly, and for fewer places than experts.
    """
    _check(len(counts), places, devices, groups, nodes)
    if groups % nodes:                                  # a group cannot stay together: all are one node
        groups = nodes = 1
    size = len(counts) // groups
    of_group = [sum(counts[group * size:(group + 1) * size]) for group in range(groups)]
    chosen: list[int] = []
    for on_node in pack(of_group, nodes):
        experts = [group * size + number for group in on_node for number in range(size)]
        chosen += _one_node(experts, counts, places // nodes, devices // nodes)
    return Placement(tuple(chosen), devices)


def _one_node(experts: list[int], counts: Sequence[float], places: int, devices: int) -> list[int]:
    """The expert at each place of a node, device by device."""
    copied = replicate([counts[expert] for expert in experts], places)
    times = [copied.count(number) for number in range(len(experts))]
    loads = [counts[experts[number]] / times[number] for number in copied]
    return [experts[copied[place]] for device in pack(loads, devices) for place in device]


def pack(weights: Sequence[float], bins: int) -> list[list[int]]:
    """Items by number in `bins` of as many each: the heaviest first, each to the lightest that has room."""
    room = len(weights) // bins
    packed: list[list[int]] = [[] for _ in range(bins)]
    sums = [0.0] * bins
    for item in sorted(range(len(weights)), key=lambda item: -weights[item]):
        open_bins = [number for number in range(bins) if len(packed[number]) < room]
        lightest = min(open_bins, key=lambda number: sums[number])
        packed[lightest].append(item)
        sums[lightest] += weights[item]
    return packed


def replicate(counts: Sequence[float], places: int) -> list[int]:
    """Every item once, then one more of whichever has the highest load a copy, until all places are taken."""
    copied = list(range(len(counts)))
    times = [1] * len(counts)
    while len(copied) < places:
        fullest = max(range(len(counts)), key=lambda item: counts[item] / times[item])
        copied.append(fullest)
        times[fullest] += 1
    return copied


def _check(experts: int, places: int, devices: int, groups: int, nodes: int) -> None:
    """Raise ValueError for what cannot be dealt evenly."""
    if places < experts:
        raise ValueError(f"{places} places for {experts} experts: each needs one at least.")
    pairs = {
        "experts among groups": (experts, groups),
        "places among devices": (places, devices),
        "devices among nodes": (devices, nodes),
    }
    for what, (many, among) in pairs.items():
        if among < 1 or many % among:
            raise ValueError(f"{many} {what} ({among}) cannot be dealt evenly. Choose numbers that divide.")
