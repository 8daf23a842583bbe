"""FROM FILES AND BACK: a checkpoint's names, weights and tokenizer.

    model, tokenizer = load("smollm2-135m", packed=False)      # packed, the default, is not for saving
    logits = model(torch.tensor([tokenizer.encode("The sea is")]))      # [1, T, V]
    save(model, "my-model", tokenizer)

The life of a checkpoint:

1. A name, a folder or a file becomes a path; a known model is fetched once, whole or not at all (hub.py).
2. Its kind decides who reads it: a folder (huggingface.py) or a GGUF file (gguf_weights.py, gguf.py).
3. Its metadata becomes a config, or an error names what cannot be computed (huggingface_config.py or
   gguf_weights.py; rope.py).
4. Its vocabulary, and what the files beside it add, become a tokenizer (huggingface_tokenizer.py or
   gguf_tokenizer.py, then tokenizer.py and chat_template.py). What ends an answer is all that any file says.
5. A model of that config is made without memory, and a place is chosen: plain, packed or quantised (load.py).
6. One table says what the file calls the parts of each layer (names.py). Before anything is read, all names
   are compared: none may be missing, and none left over but what follows from the config (fill.py).
7. Layer after layer is read, its shapes checked, and put in its place (fill.py).
8. After training the same loop runs backwards and writes a folder that the whole field can open (save.py).
"""

from aiinfra.checkpoint.hub import DEFAULT_MODEL
from aiinfra.checkpoint.load import load
from aiinfra.checkpoint.save import save
from aiinfra.checkpoint.tokenizer import StreamDecoder, Tokenizer

__all__ = ["DEFAULT_MODEL", "StreamDecoder", "Tokenizer", "load", "save"]
