"""The pipeline without a server: the same four stages in one process, for one caller."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import replace
from functools import cached_property
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from moshi.models.compression import MimiModel

from misotts.config import FRAME_SAMPLES, ModelConfig
from misotts.decode.decoder import Decoder
from misotts.engines.interface import Limits
from misotts.engines.load import load_engine
from misotts.generate.core import Core
from misotts.generate.flow import FlowOptions
from misotts.generate.inbox import Inbox
from misotts.generate.loop import Generator
from misotts.generate.stream import Chunk as FrameChunk
from misotts.generate.utterance import Utterance
from misotts.mimi import encode, load_mimi
from misotts.prompt.builder import Prompter
from misotts.prompt.voices import Voices
from misotts.slots import Piece
from misotts.watermark.key import REFERENCE_KEY
from misotts.watermark.watermarker import Watermarker, hold_back
from misotts_client.request import SpeechRequest, as_request
from misotts_client.speech import Chunk


class Synthesizer:
    """Generates one utterance at a time; a second one is a RuntimeError, because codec and watermark have one slot.
    Use it as a context manager, or `close` it.

    The codec and the watermark are loaded when they are first needed: `frames` needs neither.
    """

    def __init__(self, folder: Path, voices: Path | None = None, key: bytes = REFERENCE_KEY) -> None:
        """Load the language model; see `load`."""
        self._folder, self._config, self._key = folder, ModelConfig.load(folder), key
        self._prompter = Prompter(folder, self._config, lambda *clip: encode(self._mimi, *clip), Voices(voices))
        limits = Limits(max_streams=1)
        engine = load_engine(folder, self._config, limits)
        self._generator = Generator(self._config, engine, limits, hold_back(folder), FlowOptions(lead_s=0))
        self._generator.start()
        self._speaking = threading.Lock()
        self._tickets = count(1)
        self._delivered = 0
        """Frames of the utterance that its caller has got: what the next turn of a conversation knows of it."""

    @classmethod
    def load(cls, folder: str | Path, voices: str | Path | None = None, key: bytes = REFERENCE_KEY) -> Synthesizer:
        """Load a model folder and, optionally, name a folder of voices and the watermark's key.

        Raises:
            ConfigError, CheckpointError: the folder does not hold a model.
        """
        return cls(Path(folder), Path(voices) if voices else None, key)

    @property
    def core(self) -> Core:
        """The generate stage's core, with its counts."""
        return self._generator.core

    @cached_property
    def _mimi(self) -> MimiModel:
        return load_mimi(self._folder, self._config)

    @cached_property
    def _decoder(self) -> Decoder:
        return Decoder(self._mimi, slots=1)

    @cached_property
    def _watermarker(self) -> Watermarker:
        return Watermarker(self._folder, slots=1, key=self._key)

    def speak(self, request: SpeechRequest | str, **fields: Any) -> npt.NDArray[np.float32]:
        """Generate a text's speech and return the whole utterance, float32 [samples], 24 kHz mono, watermarked.

        `fields` are those of `SpeechRequest`.

        Raises:
            MisoError: as the server would.
        """
        return np.concatenate([chunk.audio for chunk in self.stream(request, **fields)])

    def stream(self, request: SpeechRequest | str, **fields: Any) -> Iterator[Chunk]:
        """Generate a text's speech and yield it in chunks, as the server would send them; see `speak`."""
        frame = 0
        for chunk in self._frame_chunks(as_request(request, fields)):
            first, last = chunk.index == 0, bool(chunk.finish)
            (audio,) = self._decoder.decode([Piece(0, first, chunk.codes)])
            (marked,) = self._watermarker.mark([Piece(0, first, audio, last)])
            self._delivered = frame + len(marked) // FRAME_SAMPLES
            if len(marked) or last:
                yield Chunk(marked, frame, chunk.seed, chunk.finish, chunk.session_turns)
            frame = self._delivered

    def frames(self, request: SpeechRequest | str, **fields: Any) -> npt.NDArray[np.int32]:
        """Return an utterance's codes, int32 [frames, codebooks], without the frame that ends speech; see `speak`."""
        codes = np.zeros((0, self._config.audio_num_codebooks), np.int32)
        for chunk in self._frame_chunks(as_request(request, fields)):
            codes = np.concatenate([codes, chunk.codes])
            self._delivered = len(codes)
        return np.compress(codes.any(axis=1), codes, axis=0)

    def _frame_chunks(self, request: SpeechRequest) -> Iterator[FrameChunk]:
        if not self._speaking.acquire(blocking=False):
            raise RuntimeError("a Synthesizer has one utterance at a time; exhaust or close the other stream first")
        try:
            yield from self._generate(request)
        finally:
            self._speaking.release()

    def _generate(self, request: SpeechRequest) -> Iterator[FrameChunk]:
        ticket, self._delivered = next(self._tickets), 0
        utterance = Utterance(replace(self._prompter.build(request), ticket=ticket))
        inbox, finished = Inbox(), False
        self._generator.submit(utterance, inbox)
        try:
            while not finished:
                chunk = inbox.next()
                finished = bool(chunk.finish)
                yield chunk
                self._generator.acknowledge(chunk.stream, chunk.index)
                self._generator.take(ticket, self._delivered, gone=False)
        finally:
            self._generator.take(ticket, self._delivered, gone=True)
            self._generator.abandon(utterance.stream)

    def close(self) -> None:
        self._generator.close()

    def __enter__(self) -> Synthesizer:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
