"""ONE OP, WRITTEN TWICE: a torch reference that says what is meant, and a Triton kernel that is fast.

Each file: reference, kernel, a wrapper that picks by device, `cost()`, and what to compile. Import from
the file: `from aiinfra.kernels.rmsnorm import rms_norm`. Reading order: rmsnorm, swiglu, rope, cross_entropy,
flash_attention, kv_write, rope_write, paged_attention, hstu_attention, quant_matmul, grouped_matmul.
gpu/compile.py compiles them, and bench/kernels.py measures them.
"""
