"""Turns text into tokens with the `tokenizer.json` of the model folder."""

from __future__ import annotations

from pathlib import Path

from tokenizers import Tokenizer as HuggingFaceTokenizer

from misotts.config import ConfigError, ModelConfig
from misotts.files import file_fault


class Tokenizer:
    """Encodes the words of a speaker as BOS, `[speaker] text`, EOS."""

    def __init__(self, folder: Path, config: ModelConfig) -> None:
        """Read `folder/tokenizer.json`. Its template adds BOS and EOS.

        Raises:
            ConfigError: the file is missing, unreadable, or has more tokens than the model.
        """
        path = Path(folder) / "tokenizer.json"
        if fault := file_fault(path):
            raise ConfigError(f"no tokenizer at {path}: it {fault}")
        try:
            self._tokenizer = HuggingFaceTokenizer.from_file(str(path))
        except Exception as error:  # the library raises bare Exception
            raise ConfigError(f"{path} is not a tokenizer.json: {error}") from None
        if self._tokenizer.get_vocab_size() > config.text_vocab_size:
            size = self._tokenizer.get_vocab_size()
            raise ConfigError(f"{path} has {size} tokens, config.json's text_vocab_size is {config.text_vocab_size}")
        # Text never becomes a special token: `<|end_of_text|>` in a request is spoken text.
        self._tokenizer.encode_special_tokens = True
        self._speaker_space = config.speaker_space

    def encode(self, text: str, speaker: int) -> list[int]:
        """Return the tokens of `text` behind the speaker's tag. White space at its beginning is treated as in each
        family's reference: MisoTTS replaces it by one space, CSM keeps it."""
        framed = f"[{speaker}] {text.lstrip()}" if self._speaker_space else f"[{speaker}]{text}"
        return self._tokenizer.encode(framed).ids
