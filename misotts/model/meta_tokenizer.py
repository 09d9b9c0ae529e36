"""Converts Meta's `tokenizer.model` (tiktoken ranks) to a `tokenizer.json`, so that no gated download is needed."""

from __future__ import annotations

import base64
import binascii
from pathlib import Path

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, processors
from tokenizers.pre_tokenizers import ByteLevel

from misotts.config import ConfigError

LLAMA_3_SPLIT = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"  # noqa: E501
"""Llama 3's pattern for the pieces of text within which byte pairs are merged."""

BOS, EOS = "<|begin_of_text|>", "<|end_of_text|>"
"""The first two of the 256 special tokens, which follow the ranks. Speech needs no other."""


def tokenizer_from_meta(path: Path) -> Tokenizer:
    """Read a `tokenizer.model`, which has a line for each token: its bytes in base64 and its rank.

    Raises:
        ConfigError: the file has other content.
    """
    try:
        lines = [line.split() for line in path.read_text(encoding="ascii").splitlines() if line]
        ranks = {base64.b64decode(token, validate=True): int(rank) for token, rank in lines}
    except (ValueError, binascii.Error):
        raise ConfigError(f"{path} is not a tokenizer.model of Llama 3: every line must be 'base64 rank'") from None
    if sorted(ranks.values()) != list(range(len(ranks))) or not all(bytes([b]) in ranks for b in range(256)):
        raise ConfigError(f"{path} is not a tokenizer.model of Llama 3: ranks or single bytes are missing")
    text = {token: "".join(map(_BYTE_TEXT.__getitem__, token)) for token in ranks}
    vocabulary = {text[token]: rank for token, rank in ranks.items()}
    merges = [(text[left], text[right]) for left, right in _merges(ranks)]
    # As in tiktoken, a whole piece that is a token stays that token even if no merges lead to it.
    tokenizer = llama_tokenizer(models.BPE(vocabulary, merges, ignore_merges=True))
    tokenizer.add_special_tokens([BOS, EOS])
    return tokenizer


def llama_tokenizer(model: models.BPE) -> Tokenizer:
    """Return a byte-level tokenizer with Llama 3's pieces of text around `model`."""
    tokenizer = Tokenizer(model)
    split = pre_tokenizers.Split(Regex(LLAMA_3_SPLIT), behavior="isolated")
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([split, ByteLevel(add_prefix_space=False, use_regex=False)])
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def add_bos_and_eos(tokenizer: Tokenizer) -> None:
    """Make `encode` add BOS before and EOS after the text, as in training. Llama's own file adds only BOS.

    Raises:
        ConfigError: the tokenizer lacks one of them.
    """
    ids = [(token, tokenizer.token_to_id(token)) for token in (BOS, EOS)]
    missing = [token for token, number in ids if number is None]
    if missing:
        raise ConfigError(f"the tokenizer has no {' and no '.join(missing)}")
    tokenizer.post_processor = processors.TemplateProcessing(single=f"{BOS} $A {EOS}", special_tokens=ids)


def _merges(ranks: dict[bytes, int]) -> list[tuple[bytes, bytes]]:
    """Return every pair of tokens that makes a token, in order of rank. tiktoken merges the neighbours that make the
    token of the lowest rank, so every way to cut a token is a merge of that token's rank."""
    merges = []
    for token in sorted(ranks, key=ranks.__getitem__):
        cuts = [(token[:n], token[n:]) for n in range(1, len(token))]
        pairs = [cut for cut in cuts if cut[0] in ranks and cut[1] in ranks]
        merges += sorted(pairs, key=lambda cut: (ranks[cut[0]], ranks[cut[1]]))
    return merges


def byte_text() -> list[str]:
    """Return the character of each byte in a byte-level `tokenizer.json` (GPT-2's table): printable bytes keep their
    own, the others get characters 256, 257, ..."""
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    others = (byte for byte in range(256) if byte not in printable)
    table = {byte: chr(byte) for byte in printable} | {byte: chr(256 + n) for n, byte in enumerate(others)}
    return [table[byte] for byte in range(256)]


_BYTE_TEXT = byte_text()
