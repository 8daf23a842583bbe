"""FROM FILES AND BACK: a checkpoint's names, weights and tokenizer.

    model, tokenizer = load("smollm2-135m")
    logits = model(torch.tensor([tokenizer.encode("The sea is")]))      # [1, T, V]

Reading order: load, hub, fill, gguf; tokenizer, chat_template.
"""

from aiinfra.checkpoint.hub import DEFAULT_MODEL
from aiinfra.checkpoint.load import load
from aiinfra.checkpoint.tokenizer import StreamDecoder, Tokenizer

__all__ = ["DEFAULT_MODEL", "StreamDecoder", "Tokenizer", "load"]
