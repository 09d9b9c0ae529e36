"""The prompt stage: a request becomes an order for the generate stage."""

from __future__ import annotations

import logging
import secrets
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import numpy.typing as npt
from cachetools import LRUCache
from msgspec import to_builtins

from misotts.config import FRAME_MS, FRAME_SAMPLES, MASKED, ModelConfig
from misotts.order import Order, Rows
from misotts.prompt.coded_segment import CodedSegment
from misotts.prompt.max_audio import longest_audio_ms
from misotts.prompt.tokenizer import Tokenizer
from misotts.prompt.voices import Voices
from misotts_client.contract import check_context_size, check_request, value
from misotts_client.errors import DeadlineExceeded, FieldError, InvalidArgument
from misotts_client.request import SpeechRequest

log = logging.getLogger(__name__)

CACHED_VOICES = 256

Audio = npt.NDArray[np.float32]
"""[samples], 24 kHz mono."""

Pause = Callable[[], None]
"""Called regularly during long work; an exception that it raises ends the work."""

Encode = Callable[[Audio, Pause], npt.NDArray[np.int32]]
"""Returns the codes of a clip, int32 [frames, codebooks]: see `misotts.mimi.encode`."""


@dataclass(frozen=True)
class Checked:
    """A request within its limits, before anything of it is encoded.

    Attributes:
        arrived: `time.monotonic()` seconds at which the request came.
        deadline: `time.monotonic()` seconds at which the utterance is ended; None: no limit.
        voice: rows of its voice; None if it has no voice or the voice has not been encoded before.
    """

    request: SpeechRequest
    arrived: float
    deadline: float | None
    voice: Rows | None

    @property
    def encodes(self) -> bool:
        """True if its prompt needs the codec, which takes up to seconds; any other takes less than a millisecond."""
        speaks = bool(self.request.text)
        return speaks and (bool(self.request.context) or (self.request.voice is not None and self.voice is None))

    def check_deadline(self) -> None:
        """Raises:
        DeadlineExceeded: the deadline has passed.
        """
        if self.deadline is not None and time.monotonic() >= self.deadline:
            raise DeadlineExceeded("TIMEOUT_MS has passed")


class Prompter:
    """Builds prompts: the voice and the context segments, oldest first, then the text to speak. A segment is the rows
    of its text, the rows of its audio and one frame of zeros.

    `check` may run beside `complete`. Only one thread at a time may complete requests that `encode`, because the codec
    holds the state of one clip.
    """

    def __init__(
        self,
        folder: Path,
        config: ModelConfig,
        encode: Encode,
        voices: Voices,
        max_audio_ms: int | None = None,
        encode_voice: Encode | None = None,
    ) -> None:
        """`max_audio_ms`: longest audio of a request without MAX_AUDIO_MS; None: `longest_audio_ms` of its text.
        `encode_voice` encodes the clips of voices, if not `encode`."""
        self._max_audio_ms = max_audio_ms
        self._config, self._encode, self._voices = config, encode, voices
        self._encode_voice = encode_voice or encode
        self._tokenizer = Tokenizer(folder, config)
        self._voice_rows: LRUCache[tuple[object, ...], Rows] = LRUCache(CACHED_VOICES)
        self._voice_lock = threading.Lock()

    def load_voices(self, begins: Callable[[str], None]) -> None:
        """Encode the registered voices, as many as are kept in memory. A voice that cannot be used is logged.

        Args:
            begins: called with the name of each voice before it is encoded.
        """
        for name in self._voices.names()[:CACHED_VOICES]:
            begins(name)
            try:
                self._voice(SpeechRequest("", voice=name), lambda: None)
            except FieldError as error:
                log.warning("%s", error.message)

    def build(self, request: SpeechRequest) -> Order:
        """Check a request and the size of its context; return its order. It raises what `check` and `complete` do."""
        samples = sum(len(segment.audio) for segment in request.context)
        check_context_size(len(request.context), samples, self._config.max_seq_len)
        order, _ = self.complete(self.check(request))
        return order

    def check(self, request: SpeechRequest, arrived: float | None = None) -> Checked:
        """Check a request against its limits, except for the size of its context.

        Args:
            arrived: `time.monotonic()` seconds from which the time limit of the request runs; None: now.

        Raises:
            InvalidArgument: a field is out of its limits.
            NotFound: there is no such voice.
            DeadlineExceeded: the request has waited longer than its time limit.
        """
        # The gateway has put the owner before the name, as in `alice/call-7`.
        name = request.session and request.session.rpartition("/")[2]
        check_request(replace(request, session=name), self._config.audio_codes)
        arrived = time.monotonic() if arrived is None else arrived
        checked = Checked(
            request,
            arrived,
            deadline=arrived + request.timeout_ms / 1000 if request.timeout_ms else None,
            voice=None if request.voice is None else self._cached_voice(self._voice_key(request)),
        )
        checked.check_deadline()
        return checked

    def complete(
        self, checked: Checked, alive: Pause = lambda: None, wanted: Pause = lambda: None
    ) -> tuple[Order, int]:
        """Return the order of a checked request, and the number of context segments dropped because they do not fit.

        Args:
            alive: called regularly during the work.
            wanted: called regularly too, but not while a voice is encoded, which the next requests for it use.

        Raises:
            InvalidArgument: the prompt does not fit, or the voice is not usable.
            NotFound: the voice is no longer there.
            DeadlineExceeded: the deadline has passed.
        """

        def pause() -> None:
            alive()
            wanted()
            checked.check_deadline()

        pause()
        request = checked.request
        if not request.text:
            return Order(self._text_rows([]), 0, 0, session=request.session, session_end=1), 0
        voice = []
        if request.voice is not None:
            voice = [self._voice(request, alive) if checked.voice is None else checked.voice]
        text = self._text(request.text, value(request, "SPEAKER"))
        positions = sum(map(len, [*voice, text]))
        max_frames = self._max_frames(request, positions)
        context = self._context(request, self._config.max_seq_len - max_frames - positions, pause)
        defaults = to_builtins(self._config.sampling)
        order = Order(
            frames=np.concatenate([*voice, *context, text]),
            max_frames=max_frames,
            seed=secrets.randbits(63) if request.seed is None else request.seed,
            temperature=value(request, "TEMPERATURE", defaults),
            top_k=value(request, "TOP_K", defaults),
            chunk_frames=value(request, "CHUNK_FRAMES"),
            lead_ms=request.lead_ms,
            guarded=request.max_audio_ms is None,
            session=request.session,
            heard_ms=request.session_heard_ms,
            session_end=value(request, "SESSION_END"),
            voice=sum(map(len, voice)),
            deadline=checked.deadline,
        )
        return order, len(request.context) - len(context)

    def _max_frames(self, request: SpeechRequest, positions: int) -> int:
        """Return the most frames to generate beside a voice and text of `positions`."""
        limit = self._config.max_seq_len
        free = limit - positions
        if free < 1:
            raise InvalidArgument("TEXT", f"with its voice must be below {limit} positions, got {positions}")
        max_audio_ms = request.max_audio_ms
        if max_audio_ms is None:
            longest_ms = longest_audio_ms(request.text) if self._max_audio_ms is None else self._max_audio_ms
            return min(longest_ms // FRAME_MS, free)
        if max_audio_ms // FRAME_MS > free:
            raise InvalidArgument(
                "MAX_AUDIO_MS",
                f"must be at most {free * FRAME_MS} beside a text and voice of {positions} positions (of {limit}), "
                f"got {max_audio_ms}",
            )
        return max_audio_ms // FRAME_MS

    def _context(self, request: SpeechRequest, free: int, pause: Pause) -> list[Rows]:
        """Return the rows of the newest context segments that fit in `free` positions."""
        fitting: list[Rows] = []
        for segment in reversed(request.context):
            text = self._text(segment.text, segment.speaker)
            free -= len(text) + _positions(segment.audio)
            if free < 0:  # found before the audio is encoded, which may take seconds
                log.info("dropped %d context segments that do not fit", len(request.context) - len(fitting))
                break
            encode: Encode = self._encode
            if isinstance(segment, CodedSegment):
                encode = partial(_codes_of, segment)
            fitting.insert(0, np.concatenate([text, self._audio(segment.audio, pause, encode)]))
        return fitting

    def _audio(self, audio: Audio, pause: Pause, encode: Encode) -> Rows:
        pause()
        rows = np.zeros((_positions(audio), self._config.frame_columns), np.int32)
        rows[:-1, :-1] = encode(audio, pause)
        rows[:, -1] = MASKED
        return rows

    def _text(self, text: str, speaker: int) -> Rows:
        return self._text_rows(self._tokenizer.encode(text, speaker))

    def _text_rows(self, tokens: list[int]) -> Rows:
        rows = np.full((len(tokens), self._config.frame_columns), MASKED, np.int32)
        rows[:, -1] = tokens
        return rows

    def _voice(self, request: SpeechRequest, alive: Pause) -> Rows:
        """Return the rows of the request's voice, which an earlier request may have encoded meanwhile. The deadline is
        not checked here: the encoded voice serves the next requests for it too."""
        key = self._voice_key(request)
        rows = self._cached_voice(key)
        if rows is None:
            assert request.voice is not None
            segment = self._voices.segment(request.voice, value(request, "SPEAKER"))
            text = self._text(segment.text, segment.speaker)
            rows = np.concatenate([text, self._audio(segment.audio, alive, self._encode_voice)])
            with self._voice_lock:
                self._voice_rows[key] = rows
        return rows

    def _cached_voice(self, key: tuple[object, ...]) -> Rows | None:
        with self._voice_lock:
            return self._voice_rows.get(key)

    def _voice_key(self, request: SpeechRequest) -> tuple[object, ...]:
        """Return the key of a voice in the cache; the version makes a changed file a new voice."""
        assert request.voice is not None
        return request.voice, value(request, "SPEAKER"), self._voices.version(request.voice)


def _codes_of(segment: CodedSegment, *_: object) -> npt.NDArray[np.int32]:
    return segment.codes


def _positions(audio: Audio) -> int:
    """Return the positions that a clip takes: its frames and the frame of zeros."""
    return -(-len(audio) // FRAME_SAMPLES) + 1
