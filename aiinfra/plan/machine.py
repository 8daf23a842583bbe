"""What a model is served on: GPUs, the links between them, and how much of both kernels really get.

    read_machine("H200")            a sheet of perf/hardware, NVLink within a node of 8, a network between
    read_machine("this machine")    what `measure` finds here; one device, no links

A roofline says what cannot be beaten. `Efficiency` says what kernels reached when they were measured, kind by
kind; with it the same formulas are a forecast. Two of its numbers are easily forgotten and are not small:

    tile_rows      tensor cores take rows by the 64: a product of 3 rows costs as much arithmetic as of 64. A
                   GPU with much bandwidth and little arithmetic (H20) is bound by that at batch 1.
    depth_seconds  a tile walks along its inputs one by one, however many tiles there are: a deep, narrow
                   matrix takes as long as a wide one.

Notebooks 17 and 18.
"""

from dataclasses import replace

import torch

from aiinfra.config import config
from aiinfra.device import default_device
from aiinfra.errors import nearest
from aiinfra.perf.collectives import Link
from aiinfra.perf.hardware import SHEETS, Hardware, measure

HERE = "this machine"
_NODE = 8


@config
class Efficiency:
    """Share of a sheet's figure that kernels reach, by kind of operation, and what each kernel costs besides.

    All but four are read off kernel times that InferSim publishes, for H20 and for H800, whose cores H100 and
    H200 have, too (Alibaba, github.com/alibaba/InferSim, bench_data, 2026-05-08, Apache-2.0). On kernels of
    A100 and B200 nobody was asked: they have Hopper's shares, which is a guess. `rowwise_memory`,
    `host_seconds`, `answer_seconds` and `overlap` were set once, for all machines and models, by the trend
    of published serving figures (`plan check`), not by a single row.
    """

    gemm_compute: float = 0.72           # dense products, of FLOP/s, on large inputs
    gemm_memory: float = 0.82            # dense products, of bandwidth, on few rows
    grouped_compute: float = 0.60        # products of experts
    grouped_memory: float = 0.87
    prefill_attention: float = 0.60      # attention of prompts, of 16-bit FLOP/s
    decode_memory: float = 0.90          # attention of a token over its cache, of bandwidth
    latent_compute: float = 0.54         # the same with latent attention, of 16-bit FLOP/s
    rowwise_memory: float = 0.75         # norms, activations, moving rows to experts
    link: float = 0.80                   # of a link's bandwidth
    tile_rows: int = 64                  # rows that tensor cores take at once
    depth_seconds: float = 0.93e-9       # for each byte along the inputs of a product
    launch_seconds: float = 3.0e-6       # to begin and end a kernel, replayed from a recorded graph
    host_seconds: float = 1.0e-3         # of a step, that the GPU waits for the CPU,
    answer_seconds: float = 15e-6        # and for each token that is chosen, sent and planned for
    overlap: float = 0.35                # of the shorter of the two, hidden where transfers overlap products


_HOPPER = Efficiency()
_H20 = Efficiency(
    gemm_compute=0.88,
    gemm_memory=0.80,
    grouped_compute=0.83,
    grouped_memory=0.80,
    prefill_attention=0.85,
    decode_memory=0.74,
    latent_compute=0.72)


@config
class Machine:
    """GPUs of one kind. nvlink: between those of a node; network: of each to other nodes."""

    sheet: Hardware
    nvlink: Link
    network: Link
    efficiency: Efficiency = _HOPPER
    gpus_per_node: int = _NODE

    @property
    def name(self) -> str:
        """As its sheet is called."""
        return self.sheet.name

    @property
    def memory_bytes(self) -> float:
        """Of a GPU, as its driver says: makers write GB where they mean nearly as many GiB."""
        return _DRIVER_MIB.get(self.name, 0) * 2**20 or self.sheet.memory_bytes

    def link(self, ranks: int) -> Link:
        """What joins so many ranks that stand side by side."""
        return self.nvlink if ranks <= self.gpus_per_node else self.network

    def peak(self, bits: int) -> float:
        """FLOP/s of products whose numbers have so many bits; of 16 where there are no units for fewer."""
        if bits == 32:
            return self.sheet.float32
        if bits <= 8 and self.sheet.fp8 is not None:
            return self.sheet.fp8
        if self.sheet.bfloat16 is not None:
            return self.sheet.bfloat16
        return self.sheet.float32


# Bytes/s in one direction: half of what makers add up. Latency of a message over NVLink: an all-reduce of
# 8 ranks that sends little takes about 10 µs. Networks: one card of 400 Gbit/s for each GPU; A100: 200.
_NVLINK = {"H20": 450e9, "H800 SXM": 200e9, "H100 SXM": 450e9, "H200 SXM": 450e9, "A100 SXM 80GB": 300e9,
           "B200 SXM": 900e9}
_DRIVER_MIB = {"H20": 97871, "H800 SXM": 81559, "H100 SXM": 81559, "H200 SXM": 143771,
               "A100 SXM 80GB": 81920, "B200 SXM": 183359}           # nvidia-smi
_NVLINK_LATENCY = 0.7e-6
_NETWORK = Link(latency_seconds=5e-6, bytes_per_second=50e9)
_SLOW_NETWORK = Link(latency_seconds=5e-6, bytes_per_second=25e9)


def _machine(name: str) -> Machine:
    efficiency = _H20 if name == "H20" else _HOPPER
    network = _SLOW_NETWORK if name.startswith("A100") else _NETWORK
    nvlink = Link(latency_seconds=_NVLINK_LATENCY, bytes_per_second=_NVLINK[name])
    return Machine(sheet=SHEETS[name], nvlink=nvlink, network=network, efficiency=efficiency)


MACHINES = {name: _machine(name) for name in _NVLINK}


def read_machine(name: str) -> Machine:
    """By the first word of a sheet's name, or its whole name; "this machine" is measured, in two seconds.
    Raises ValueError for any other."""
    word = name.strip().lower()
    if word == HERE:
        return measured_machine()
    for known, machine in MACHINES.items():
        if word in (known.lower(), known.lower().split()[0]):
            return machine
    short = [known.split()[0] for known in MACHINES]
    raise ValueError(f"gpu={name!r} is not known.{nearest(name, short)} Known: {', '.join(short)}, or "
                     f"{HERE!r}, which is measured.")


def measured_machine() -> Machine:
    """The device here: the limits are measured, and so nothing is taken off them."""
    device = default_device()
    sheet = measure(device)
    rows = Efficiency.tile_rows if device.type == "cuda" else 1
    whole = replace(_HOPPER, gemm_compute=1.0, gemm_memory=1.0, grouped_compute=1.0, grouped_memory=1.0,
                    prefill_attention=1.0, decode_memory=1.0, latent_compute=1.0, rowwise_memory=1.0,
                    tile_rows=rows, depth_seconds=0.0, launch_seconds=sheet.dispatch_seconds or 0.0)
    alone = Link(latency_seconds=50e-6, bytes_per_second=1e9)
    return Machine(sheet=sheet, nvlink=alone, network=alone, efficiency=whole,
                   gpus_per_node=max(1, torch.cuda.device_count()))
