"""THE SAME IN FEWER BYTES: weights laid out once for the CPU, or kept in 8 or 4 bits. Applied from outside to
a finished model."""

from aiinfra.compress.packed import pack
from aiinfra.compress.quantized import quantize

__all__ = ["pack", "quantize"]
