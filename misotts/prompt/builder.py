"""The prompt stage: a request → what the generate stage needs, frames first."""

from __future__ import annotations

import logging
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from misotts.config import FRAME_MS, FRAME_SAMPLES, MASKED, ModelConfig
from misotts.order import Order
from misotts.prompt.limits import DEFAULT_AUDIO_MS, DEFAULT_TEMPERATURE, DEFAULT_TOP_K, check_request
from misotts.prompt.lru import Recent
from misotts.prompt.tokenizer import Tokenizer
from misotts.prompt.voices import Voices
from misotts_client.errors import DeadlineExceeded, InvalidArgument
from misotts_client.request import SpeechRequest

log = logging.getLogger(__name__)

VOICES_KEPT = 256

Pause = Callable[[], None]
"""Is called between pieces of long work; what it raises ends the work."""

Encode = Callable[[np.ndarray, Pause], np.ndarray]
"""A clip, float32 [samples] at 24 kHz → its codes, int32 [frames, codebooks]: see `misotts.mimi.encode`."""


@dataclass(frozen=True)
class Checked:
    """A request within its limits; nothing of it has been encoded yet."""

    request: SpeechRequest
    deadline: float | None
    """`time.monotonic()` seconds at which the utterance is given up."""
    voice: np.ndarray | None
    """Its voice's frames, where it has one that was encoded before."""

    @property
    def encodes(self) -> bool:
        """Whether its prompt takes the codec, and so up to seconds; without, it takes less than a millisecond."""
        return bool(self.request.context) or (self.request.voice is not None and self.voice is None)

    def check_deadline(self) -> None:
        """Raises:
        DeadlineExceeded: the request's time is over.
        """
        if self.deadline is not None and time.monotonic() >= self.deadline:
            raise DeadlineExceeded("TIMEOUT_MS has passed")


class Prompter:
    """Builds prompts: segments oldest first, each its text, then its audio's frames and one frame of zeros; at the end
    the text to speak.

    One thread may `check` while another one completes a prompt; `complete` is for one thread at a time wherever the
    prompt `encodes`: the codec keeps the state of one clip.
    """

    def __init__(self, folder: Path, config: ModelConfig, encode: Encode, voices: Voices) -> None:
        self._config, self._encode, self._voices = config, encode, voices
        self._tokenizer = Tokenizer(folder, config)
        self._voice_frames: Recent[tuple[object, ...], np.ndarray] = Recent(VOICES_KEPT)

    def build(self, request: SpeechRequest) -> Order:
        """Check a request and make its order; raises what `check` and `complete` do."""
        order, _ = self.complete(self.check(request))
        return order

    def check(self, request: SpeechRequest, arrived: float | None = None) -> Checked:
        """Hold a request against its limits. `arrived`: `time.monotonic()` seconds, from which its time limit runs;
        left out, now.

        Raises:
            InvalidArgument: a field is out of its limits.
            NotFound: no such voice.
            DeadlineExceeded: the request has waited for longer than it may take.
        """
        check_request(request, self._config)
        arrived = time.monotonic() if arrived is None else arrived
        checked = Checked(
            request,
            deadline=arrived + request.timeout_ms / 1000 if request.timeout_ms else None,
            voice=None if request.voice is None else self._voice_frames.get(self._voice_key(request)),
        )
        checked.check_deadline()
        return checked

    def complete(self, checked: Checked, alive: Pause = lambda: None) -> tuple[Order, int]:
        """Make the order of a checked request, and count the oldest context segments that did not fit. `alive` is
        called between pieces of the work.

        Raises:
            InvalidArgument: the prompt does not fit, or the voice is not usable.
            NotFound: the voice is no longer there.
            DeadlineExceeded: the request's time is over.
        """

        def pause() -> None:
            alive()
            checked.check_deadline()

        pause()
        request = checked.request
        required = [self._text(request.text, request.speaker or 0)]
        if request.voice is not None:
            required.insert(0, self._voice(request, alive) if checked.voice is None else checked.voice)
        positions = sum(map(len, required))
        max_frames = self._max_frames(request.max_audio_ms, positions)
        context = self._fit(request, self._config.max_seq_len - max_frames - positions, pause)
        order = Order(
            frames=np.concatenate([*required[:-1], *context, required[-1]]),
            max_frames=max_frames,
            seed=secrets.randbits(63) if request.seed is None else request.seed,
            temperature=DEFAULT_TEMPERATURE if request.temperature is None else request.temperature,
            top_k=DEFAULT_TOP_K if request.top_k is None else request.top_k,
            chunk_frames=request.chunk_frames or 0,
            deadline=checked.deadline,
        )
        return order, len(request.context) - len(context)

    def _max_frames(self, max_audio_ms: int | None, positions: int) -> int:
        """Frames to generate beside a prompt of `positions` that cannot be shortened."""
        room = self._config.max_seq_len - positions
        if room < 1:
            limit = self._config.max_seq_len
            raise InvalidArgument("TEXT", f"with its voice must be below {limit} positions, got {positions}")
        if max_audio_ms is None:
            return min(DEFAULT_AUDIO_MS // FRAME_MS, room)
        if max_audio_ms // FRAME_MS > room:
            raise InvalidArgument(
                "MAX_AUDIO_MS",
                f"must be at most {room * FRAME_MS} beside a text and voice of {positions} positions "
                f"(of {self._config.max_seq_len}), got {max_audio_ms}",
            )
        return max_audio_ms // FRAME_MS

    def _fit(self, request: SpeechRequest, room: int, pause: Pause) -> list[np.ndarray]:
        """Frames of the newest context segments that fit in `room` positions."""
        kept: list[np.ndarray] = []
        for segment in reversed(request.context):
            text = self._text(segment.text, segment.speaker)
            room -= len(text) + _positions(segment.audio)
            if room < 0:  # known before its audio is encoded, which may take seconds
                log.info("dropped %d context segments that do not fit", len(request.context) - len(kept))
                break
            kept.insert(0, np.concatenate([text, self._audio(segment.audio, pause)]))
        return kept

    def _audio(self, audio: np.ndarray, pause: Pause) -> np.ndarray:
        pause()
        frames = np.zeros((_positions(audio), self._config.frame_columns), np.int32)
        frames[:-1, :-1] = self._encode(audio, pause)
        frames[:, -1] = MASKED
        return frames

    def _text(self, text: str, speaker: int) -> np.ndarray:
        tokens = self._tokenizer.encode(text, speaker)
        frames = np.full((len(tokens), self._config.frame_columns), MASKED, np.int32)
        frames[:, -1] = tokens
        return frames

    def _voice(self, request: SpeechRequest, alive: Pause) -> np.ndarray:
        """The request's voice, encoded unless another request had it encoded while this one waited. Whoever asked for
        it first may run out of time: it is encoded to its end, for those who ask next."""
        key = self._voice_key(request)
        frames = self._voice_frames.get(key)
        if frames is None:
            assert request.voice is not None
            segment = self._voices.segment(request.voice, request.speaker or 0)
            text = self._text(segment.text, segment.speaker)
            frames = np.concatenate([text, self._audio(segment.audio, alive)])
            self._voice_frames.put(key, frames)
        return frames

    def _voice_key(self, request: SpeechRequest) -> tuple[object, ...]:
        """What a voice's frames depend on; its version makes a changed file a new voice."""
        assert request.voice is not None
        return request.voice, request.speaker or 0, self._voices.version(request.voice)


def _positions(audio: np.ndarray) -> int:
    """Positions that a clip takes: its frames and one of zeros."""
    return -(-len(audio) // FRAME_SAMPLES) + 1
