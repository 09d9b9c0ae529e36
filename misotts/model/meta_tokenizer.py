"""Meta's `tokenizer.model` (tiktoken ranks) → a `tokenizer.json`, so that no gated download is needed."""

from __future__ import annotations

import base64
import binascii
from pathlib import Path

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, processors
from tokenizers.pre_tokenizers import ByteLevel

from misotts.config import ConfigError

LLAMA_3_SPLIT = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"  # noqa: E501
"""How Llama 3 cuts text before byte pairs are merged."""

BOS, EOS = "<|begin_of_text|>", "<|end_of_text|>"
"""The first two of the 256 special tokens, which follow the ranks; speech needs no other."""


def tokenizer_from_meta(path: Path) -> Tokenizer:
    """Read a `tokenizer.model`: a line for each token, its bytes in base64 and its rank.

    Raises:
        ConfigError: the file is something else.
    """
    try:
        lines = [line.split() for line in path.read_text(encoding="ascii").splitlines() if line]
        ranks = {base64.b64decode(token, validate=True): int(rank) for token, rank in lines}
    except (ValueError, binascii.Error):
        raise ConfigError(f"{path} is no tokenizer.model of Llama 3: its lines must be 'base64 rank'") from None
    if sorted(ranks.values()) != list(range(len(ranks))) or not all(bytes([b]) in ranks for b in range(256)):
        raise ConfigError(f"{path} is no tokenizer.model of Llama 3: ranks or single bytes are missing")
    written = {token: _as_text(token) for token in ranks}
    vocabulary = {written[token]: rank for token, rank in ranks.items()}
    merges = [(written[left], written[right]) for left, right in _merges(ranks)]
    # A whole word that is a token is that token, even where no merges lead to it: as tiktoken does.
    tokenizer = Tokenizer(models.BPE(vocabulary, merges, ignore_merges=True))
    split = pre_tokenizers.Split(Regex(LLAMA_3_SPLIT), behavior="isolated")
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([split, ByteLevel(add_prefix_space=False, use_regex=False)])
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([BOS, EOS])
    return tokenizer


def frame_with_bos_and_eos(tokenizer: Tokenizer) -> None:
    """Make `encode` put BOS in front and EOS behind, as the model was trained; Llama's own file adds BOS alone.

    Raises:
        ConfigError: the tokenizer lacks one of them.
    """
    ids = [(token, tokenizer.token_to_id(token)) for token in (BOS, EOS)]
    missing = [token for token, number in ids if number is None]
    if missing:
        raise ConfigError(f"the tokenizer has no {' and no '.join(missing)}")
    tokenizer.post_processor = processors.TemplateProcessing(single=f"{BOS} $A {EOS}", special_tokens=ids)


def _merges(ranks: dict[bytes, int]) -> list[tuple[bytes, bytes]]:
    """Every pair of tokens that makes a token, the best first. tiktoken merges whichever neighbours make the token of
    the lowest rank, so all the ways to cut a token count, and a token's rank is the rank of its merges."""
    merges = []
    for token in sorted(ranks, key=ranks.__getitem__):
        cuts = [(token[:n], token[n:]) for n in range(1, len(token))]
        known = [cut for cut in cuts if cut[0] in ranks and cut[1] in ranks]
        merges += sorted(known, key=lambda cut: (ranks[cut[0]], ranks[cut[1]]))
    return merges


def _as_text(token: bytes) -> str:
    return "".join(map(_BYTE_TEXT.__getitem__, token))


def _byte_text() -> list[str]:
    """The character that stands for each byte in a byte-level `tokenizer.json` (GPT-2's): printable ones for
    themselves, the others for 256, 257, ..."""
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    others = (byte for byte in range(256) if byte not in printable)
    table = {byte: chr(byte) for byte in printable} | {byte: chr(256 + n) for n, byte in enumerate(others)}
    return [table[byte] for byte in range(256)]


_BYTE_TEXT = _byte_text()
