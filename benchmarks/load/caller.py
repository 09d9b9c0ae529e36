"""One call: the audio that a caller hears, its times, and the check that it is the audio asked for."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from benchmarks.load.openai import OpenAiClient
from benchmarks.load.plan import Call
from benchmarks.load.playback import Arrival, played_at
from misotts.config import FRAME_MS, FRAME_SAMPLES, SAMPLE_RATE
from misotts_client import AsyncClient, Chunk, SpeechRequest
from misotts_client.errors import MisoError
from misotts_client.speech import leading_silence_s

KEPT = 10
"""Number of first calls that keep their audio."""
SLOWNESS = 1.5
"""Seconds that a slow caller waits for each second of audio before it takes more."""

SILENCE = 1e-3
"""Root mean square below which an utterance counts as silent: -60 dB of full scale. One without an audible sample is
silent too."""
LEAST_S_PER_CHAR = 0.02
"""Audio of a server without FINISH that is shorter than this cannot have spoken the text."""

Clock = Callable[[], float]
"""Returns the seconds since the start of the run."""


@dataclass
class Answer:
    """The result of a call. Times are seconds since the start of the run."""

    call: Call
    due_s: float
    """Time at which the call should have been sent: its place in the plan, or when its caller was free."""
    sent_s: float
    arrivals: list[Arrival] = field(default_factory=list)
    audio: list[npt.NDArray[np.float32]] = field(default_factory=list)
    """Audio of the first calls, for the watermark's detector."""
    leading_silence_s: float | None = None
    """Audio before the first audible sample; None while there is none, and in a simulation."""
    ended_s: float = 0.0
    finish: str = ""
    error: str = ""
    """Code of the error, or kind of the answer's fault; empty if the call succeeded."""
    words: str = ""
    """The error's message."""

    def hear(self, audio: npt.NDArray[np.float32], at_s: float) -> None:
        """Add the samples of a chunk that came at `at_s`."""
        if self.leading_silence_s is None and (silence_s := leading_silence_s(audio)) is not None:
            self.leading_silence_s = self.audio_s + silence_s
        self.arrivals.append(Arrival(at_s, len(audio)))

    @property
    def audio_s(self) -> float:
        return sum(each.samples for each in self.arrivals) / SAMPLE_RATE

    @property
    def ttfa_s(self) -> float | None:
        """Time from when the call was due to its first audio; None for a failed call, however early its audio came."""
        return self.arrivals[0].at_s - self.due_s if self.arrivals and not self.error else None

    @property
    def audible_ttfa_s(self) -> float | None:
        """Time from when the call was due until a player that starts with the first chunk plays the first audible
        sample; None for a failed call, and where nothing audible came."""
        if self.error or self.leading_silence_s is None:
            return None
        return played_at(self.arrivals, self.leading_silence_s) - self.due_s

    @property
    def rtf(self) -> float | None:
        """Time from when the call was due to its last chunk, over the length of its audio; None without whole audio."""
        return (self.ended_s - self.due_s) / self.audio_s if self.finish and not self.error else None


async def make(call: Call, client: AsyncClient | OpenAiClient, clock: Clock) -> Answer:
    """Make the call now, and listen as its listener does."""
    now = clock()
    answer = Answer(call, due_s=now if call.at_s is None else call.at_s, sent_s=now)
    check = AnswerCheck(call.request, bare=isinstance(client, OpenAiClient))
    try:
        await _listen(answer, check, client, clock)
    except MisoError as error:
        answer.error, answer.words = error.code, str(error).removeprefix(f"{error.code}: ")
    answer.error = answer.error or check.fault
    answer.ended_s = clock()
    return answer


async def _listen(answer: Answer, check: AnswerCheck, client: AsyncClient | OpenAiClient, clock: Clock) -> None:
    call = answer.call
    async with client.stream(call.request) as stream:
        async for chunk in stream:
            if len(chunk.audio):
                answer.hear(chunk.audio, clock())
                if call.number < KEPT:
                    answer.audio.append(chunk.audio)
            check.add(chunk)
            answer.finish = chunk.finish
            if check.samples >= call.cancel_after_s * SAMPLE_RATE and not chunk.finish:
                return
            if call.listener == "slow":
                await asyncio.sleep(SLOWNESS * len(chunk.audio) / SAMPLE_RATE)
    check.end()


class AnswerCheck:
    """Judges the chunks of one call as they arrive: a wrong answer must not count as a fast one.

    Attributes:
        samples: number of samples so far.
        fault: kind of the first fault, in capitals like the errors' codes; empty if there is none.
    """

    def __init__(self, request: SpeechRequest, bare: bool = False) -> None:
        """`bare`: chunks have no FRAME, seed and FINISH, and the audio may have any length that the text allows."""
        self._request, self._bare = request, bare
        self._energy = 0.0
        self._audible = False
        self._finish = ""
        self.samples = 0
        self.fault = ""

    def add(self, chunk: Chunk) -> None:
        """Take the next chunk."""
        energy = float(np.dot(chunk.audio, chunk.audio))
        if not self._bare and chunk.frame * FRAME_SAMPLES != self.samples:
            self._fail("WRONG_FRAME")
        if not np.isfinite(energy) or np.abs(chunk.audio).max(initial=0.0) > 1:
            self._fail("NOT_AUDIO")
        if not self._bare and chunk.seed != self._request.seed:
            self._fail("WRONG_SEED")
        self.samples += len(chunk.audio)
        self._energy += energy
        self._audible = self._audible or leading_silence_s(chunk.audio) is not None
        self._finish = chunk.finish

    def end(self) -> None:
        """Judge the whole answer, once the server has ended the stream."""
        limit = (self._request.max_audio_ms or 0) // FRAME_MS * FRAME_SAMPLES
        whole = self.samples == limit if self._finish == "length" else 0 < self.samples <= limit
        if self._bare:
            whole = self.samples >= LEAST_S_PER_CHAR * len(self._request.text) * SAMPLE_RATE
        if not whole or (self.samples % FRAME_SAMPLES and not self._bare):
            self._fail("WRONG_LENGTH")
        elif self._energy < SILENCE**2 * self.samples or not self._audible:
            self._fail("SILENT")

    def _fail(self, kind: str) -> None:
        self.fault = self.fault or kind
