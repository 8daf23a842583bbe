"""Mutants that pass because they are right: an argument for each, in place of a judgement."""

import re

_LAST_AXIS = "one axis is left, and -1 is its other name"
_NOT_STORED = "what the mask cuts off here reaches only rows or columns that the store's mask cuts off"
_OVERWRITTEN = "every row has a largest value, which replaces the start"
_FORGOTTEN = "the first rescaling is by exp(-inf) = 0, which forgets what a sum began with"
_HIDDEN = "a score is replaced, or weighs 0, wherever this mask cuts off"
_CAUSAL = "a query inside T sees no key after itself, and so none past T"
_NO_GRADIENT = "a query past T has do and delta 0, so it adds 0 to every gradient"
_NOTHING_STORED = "a program without rows does no more than load: all its stores are masked"
_CONVERTS = "an integer times a float32 is a float32 without .to"

# (puzzle, what was changed) -> why the answer is still right. Both are regular expressions.
EQUIVALENT: dict[tuple[str, str], str] = {
    (".*", r"^'0': is -1$"): _LAST_AXIS,
    ("online_softmax", r"other=-': (no other|other=(0|1)\.0)$"): _NOT_STORED,
    ("online_softmax", r"float\('inf'\).: is "): _NOT_STORED,
    ("argmax", r"^'0': is 1$"): _OVERWRITTEN,
    ("topk_route", r"'tl\.store\(expert_ptr.* times 1\.0001$"):
        "the experts fit into a block, and an index below 10,000 is rounded down to itself",
    ("scalar_flash|flash_attention|paged_decode", r"^'tl\.zeros\(.*ones$"): _FORGOTTEN,
    ("split_k_decode", r"^'tl\.zeros\(\[GROUP\].*ones$"): _FORGOTTEN,
    ("scalar_flash|flash_.*|hstu_.*|paged_decode|split_k_decode",
     r"^'tl\.load\((q|do|k|k_cache|lse|delta)_ptr.*: (no other|other=.*)$"): _HIDDEN,
    ("hstu_.*", r"^'tl\.load\((time|position_bias|time_bias)_ptr.*: (no other|other=.*)$"): _HIDDEN,
    ("scalar_flash|flash_attention|flash_dq|hstu_.*|paged_decode|split_k_decode",
     r"^'tl\.load\(v(_cache)?_ptr.*: other=1\.0$"): _HIDDEN,
    ("flash_dkdv", r"^'tl\.load\(v_ptr.*: (no other|other=.*)$"): _NOT_STORED,
    ("flash_attention", r"^'\(t\[:, None\] >= .*: left part only$|^'j\[None, :\] < T': compares"): _CAUSAL,
    ("flash_dkdv", r"^'\(t\[:, None\] >= .*: left part only$|^'t\[:, None\] < T': compares"): _NO_GRADIENT,
    ("hstu_attention", r"^'n \* BLOCK': left part only$"): _NOTHING_STORED,
    ("grouped_matmul", r"^'first < end': compares"): _NOTHING_STORED,
    ("int4_matmul", r"mask=(n < N|row < M).*: (no other|other=.*)$"): _NOT_STORED,
    ("int4_matmul", r"to\(tl\.float32\)': no to$"): _CONVERTS,
}


def reason(puzzle: str, what: str) -> str:
    """Why this mutant is right; "" if nobody has shown it."""
    for (name, pattern), why in EQUIVALENT.items():
        if re.fullmatch(name, puzzle) and re.search(pattern, what):
            return why
    return ""
