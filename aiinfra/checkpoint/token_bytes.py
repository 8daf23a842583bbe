"""The bytes behind a token. A vocabulary is written as text, in one of two ways:

    byte level (GPT-2, Llama 3, Qwen)    "Ġcafé" is written ĠcafÃ©: each byte stands as a letter that prints
    sentencepiece (Llama 2)              "▁café", and <0xF0> for a byte that no piece has

A client that counts or joins tokens needs the bytes: an emoji may be four tokens, and each alone is no text.
Source of the letters: GPT-2's encoder.py, bytes_to_unicode. Notebook 15.
"""

import re

import tokenizers

_SPACE = "\u2581"                            # sentencepiece's
_BYTE = re.compile("<0x([0-9A-F]{2})>")


def is_byte_level(backend: tokenizers.Tokenizer) -> bool:
    """True if each letter of its vocabulary stands for a byte."""
    return backend.decoder is not None and backend.decoder.decode(["\u0120"]) == " "


def bytes_of(token: str, byte_level: bool) -> bytes:
    """The bytes of one token as a vocabulary writes it."""
    if byte_level and all(letter in _BYTE_OF for letter in token):
        return bytes(_BYTE_OF[letter] for letter in token)
    if found := _BYTE.fullmatch(token):
        return bytes([int(found.group(1), 16)])
    return token.replace(_SPACE, " ").encode()


def _letters() -> dict[str, int]:
    """Letter -> byte: those that print stand for themselves, all others for 256 and up, in order."""
    printing = {*range(ord("!"), ord("~") + 1), *range(0xA1, 0xAC + 1), *range(0xAE, 0xFF + 1)}
    others = [byte for byte in range(256) if byte not in printing]
    letters = {chr(byte): byte for byte in printing}
    letters |= {chr(256 + place): byte for place, byte in enumerate(others)}
    return letters


_BYTE_OF = _letters()
