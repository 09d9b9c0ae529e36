"""Turns text into tokens with the `tokenizer.json` of the model folder."""

from __future__ import annotations

from pathlib import Path

from tokenizers import Tokenizer as HuggingFaceTokenizer

from misotts.config import ConfigError, ModelConfig


class Tokenizer:
    """Encodes the words of a speaker as BOS, `[speaker] text`, EOS."""

    def __init__(self, folder: Path, config: ModelConfig) -> None:
        """Read `folder/tokenizer.json`. Its template adds BOS and EOS.

        Raises:
            ConfigError: the file is missing, unreadable, or has more tokens than the model.
        """
        path = Path(folder) / "tokenizer.json"
        try:
            self._tokenizer = HuggingFaceTokenizer.from_file(str(path))
        except Exception as error:  # the library raises bare Exception
            raise ConfigError(f"no tokenizer at {path}: {error}") from None
        if self._tokenizer.get_vocab_size() > config.text_vocab_size:
            size = self._tokenizer.get_vocab_size()
            raise ConfigError(f"{path} has {size} tokens, config.json's text_vocab_size is {config.text_vocab_size}")
        # Text never becomes a special token: `<|end_of_text|>` in a request is spoken text.
        self._tokenizer.encode_special_tokens = True
        self._separator = " " if config.speaker_space else ""

    def encode(self, text: str, speaker: int) -> list[int]:
        """Return the tokens of `text`; spaces at its beginning are dropped."""
        return self._tokenizer.encode(f"[{speaker}]{self._separator}{text.lstrip(' ')}").ids
