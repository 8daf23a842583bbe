"""MANY REQUESTS, ONE MODEL: from a prompt to a stream of tokens.

Reading order: sampling_params, sampler, generate (naive and cached), llm.
"""

from aiinfra.engine.llm import LLM, CompletionOutput, RequestOutput
from aiinfra.engine.sampling_params import SamplingParams

__all__ = ["LLM", "SamplingParams", "RequestOutput", "CompletionOutput"]
