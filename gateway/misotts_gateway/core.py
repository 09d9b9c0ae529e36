"""The core: a checked request becomes a fresh message, one private call, and chunks.

Protocols are thin files around it. A protocol makes a `Caller` (`misotts_gateway.callers`) and an `Asked`
(`misotts_gateway.request`), iterates over `Core.speak`, and turns pieces and errors into what its callers expect.
"""

from __future__ import annotations

import asyncio
import struct
import time
from collections.abc import AsyncGenerator, Iterator
from contextlib import ExitStack, contextmanager, nullcontext, suppress
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import grpc
import numpy as np
import numpy.typing as npt
from tritonclient.grpc import service_pb2

from misotts_client.contract import FRAME_SAMPLES, SAMPLE_RATE
from misotts_client.errors import MisoError, Unavailable, error_of
from misotts_client.request import SpeechRequest
from misotts_client.speech import leading_silence_s
from misotts_client.transport import infer_request
from misotts_gateway.access_log import AccessLog
from misotts_gateway.admission import Admission
from misotts_gateway.callers import FORWARDED_FOR, REQUEST_ID, TRACEPARENT, Caller
from misotts_gateway.counts import Counts
from misotts_gateway.errors import Draining, TooMany, UnknownKey, lost_call, public_error
from misotts_gateway.limits import STALLED_S, CallerLimits
from misotts_gateway.request import EMPTY_FINAL, Asked, ModelLimits
from misotts_gateway.tickets import INPUT, Tickets
from misotts_gateway.upstream import Upstream

if TYPE_CHECKING:
    from misotts_gateway.traces import Traces

FORGET_S = 5.0
"""Time in which the server may forget a conversation."""


@dataclass(frozen=True)
class Piece:
    """One response of the private side.

    Attributes:
        data: the serialized `ModelStreamInferResponse`.
        message: the same, parsed; `misotts_client.transport.ChunkReader` makes a chunk of it.
        samples: number of samples in it.
        frames: number of frames of the utterance up to its end.
        finish: FINISH, which is not empty in the last piece with outputs.
    """

    data: bytes
    message: Any
    samples: int
    frames: int
    finish: str

    @property
    def audio(self) -> npt.NDArray[np.float32]:
        """Its samples, float32 [samples]."""
        response = self.message.infer_response
        for output, raw in zip(response.outputs, response.raw_output_contents, strict=False):
            if output.name == "AUDIO":
                return np.frombuffer(raw, "<f4")
        return np.zeros(0, np.float32)


class Core:
    """Serves checked requests, within the limits of their callers.

    Attributes:
        model: limits that depend on the model; the process sets them once it has learned them.
        draining: True once no more requests are accepted.
        admission: what `generate` says of its slots; nothing, where the upstream is another gateway.
    """

    def __init__(
        self,
        upstream: Upstream,
        tickets: Tickets,
        limits: CallerLimits,
        counts: Counts,
        access: AccessLog,
        traces: Traces | None = None,
    ) -> None:
        self.model = ModelLimits()
        self.draining = False
        self.admission = Admission()
        self._traces = traces
        self.counts = counts
        self._upstream, self._tickets, self._limits, self._access = upstream, tickets, limits, access
        self._running: set[_Utterance] = set()
        self._forgetting: set[asyncio.Task[None]] = set()

    @property
    def streams(self) -> int:
        """Number of utterances that their callers have not taken to the end."""
        return len(self._running)

    @property
    def is_private(self) -> bool:
        """True if requests go to a private Triton of this machine, False if to another gateway."""
        return self._upstream.private

    @contextmanager
    def admit(self, caller: Caller, lead_ms: int | None = None, text: str | None = None) -> Iterator[None]:
        """Admit a turn of one or several utterances: it counts as one request and one stream, and a drain that begins
        meanwhile refuses none of them.

        Args:
            lead_ms: LEAD_MS of the utterances.
            text: of the turn, of which a refusal is recorded as that of one utterance; None: `speak` records it.

        Raises:
            MisoError: the server drains, or the caller is over a limit of its own.
        """
        with ExitStack() as held:
            try:
                if self.draining:
                    raise Draining
                self._limits.check(caller)  # first: one that is let in counts until it comes to `generate`
                held.callback(self.admission.leave, self.admission.enter(lead_ms))
                held.enter_context(self._limits.hold(caller))
            except MisoError as error:
                self.refused(error)
                if text is not None:
                    utterance = _Utterance(Asked(SpeechRequest(text)), caller)
                    utterance.outcome = error.code
                    self._record(utterance)
                raise
            yield

    async def speak(self, asked: Asked, caller: Caller, admitted: bool = False) -> AsyncGenerator[Piece]:
        """Yield the responses to a request as they come.

        The iterator counts a piece as taken by the caller when it is asked for the next one, so ask only when the last
        one has been written. Closing it (`contextlib.aclosing`), or cancelling the task that iterates, cancels the
        utterance. A caller that takes nothing for `STALLED_S` has the iterating task cancelled.

        Args:
            admitted: True inside of `admit`, which this method calls otherwise.

        Raises:
            MisoError: the request is refused, or speech ended early. The error is in words for callers. An utterance
                that fails after its first piece says so in the last piece's `finish`.
        """
        utterance = _Utterance(asked, caller)
        try:
            with nullcontext() if admitted else self.admit(caller, asked.request.lead_ms):
                self._running.add(utterance)
                utterance.ticket = self._tickets.new(caller.share)
                if self._traces:
                    utterance.span = self._traces.begin(utterance.ticket, caller, len(asked.request.text))
                message = self._message(asked, utterance.ticket, caller)
                async with self._upstream.call(message, self._metadata(caller)) as call:
                    async for data in _responses(call, caller.request_id):
                        piece = self._piece(data, caller.request_id)
                        error = error_of(piece.finish)
                        if error and not utterance.begun:  # a refusal, which proxies and HTTP see as one
                            utterance.took(piece)
                            raise error
                        utterance.give(piece)
                        yield piece
                        utterance.took(piece)
                        self._tickets.taken(utterance.ticket, utterance.frames)
                if not utterance.finish:
                    raise Unavailable("the server ended the stream before the end of speech")
        except MisoError as error:
            utterance.outcome = error.code
            raise
        finally:
            self._running.discard(utterance)
            if utterance.ticket and not utterance.finish:
                self._tickets.gone(utterance.ticket, utterance.frames)
            self._record(utterance)

    def forget(self, session: str, caller: Caller) -> None:
        """Have the server forget a conversation of `caller`. If that fails, it does so when it has been idle."""
        task = asyncio.create_task(self._forget(session, caller))
        self._forgetting.add(task)
        task.add_done_callback(self._forgetting.discard)

    async def _forget(self, session: str, caller: Caller) -> None:
        asked = Asked(SpeechRequest("", session=session, session_end=1))
        message = self._message(asked, self._tickets.new(caller.share), caller)
        with suppress(MisoError, asyncio.TimeoutError):
            await asyncio.wait_for(self._ended(message, caller), FORGET_S)

    async def _ended(self, message: bytes, caller: Caller) -> None:
        async with self._upstream.call(message, self._metadata(caller)) as call:
            async for _ in _responses(call, caller.request_id):
                pass

    def refused(self, error: MisoError) -> None:
        """Count a refusal by the gateway itself."""
        reason = error.code.lower()
        if isinstance(error, TooMany):
            reason = error.reason
        elif isinstance(error, UnknownKey):
            reason = "key"
        elif isinstance(error, Draining):
            reason = "draining"
        elif isinstance(error, Unavailable):
            reason = "no_slot"
        self.counts.refused.labels(reason).inc()

    def took_silence(self) -> None:
        """Take note that the caller of the utterance which the running task speaks has taken audio of another source,
        while a piece of the utterance waits."""
        for utterance in self._running:
            if utterance.task is asyncio.current_task() and utterance.given_at:
                utterance.given_at = time.monotonic()

    def end_stalled(self) -> None:
        """End the utterances of which the caller has taken nothing for `STALLED_S`. Called every second or so."""
        now = time.monotonic()
        for utterance in list(self._running):
            if utterance.given_at and now - utterance.given_at > STALLED_S and utterance.task:
                self.counts.refused.labels("stalled").inc()
                utterance.outcome = Unavailable.code
                utterance.task.cancel()

    def _message(self, asked: Asked, ticket: int, caller: Caller) -> bytes:
        """Return the message for the upstream. Another gateway, which learns of the caller, adds ticket and owner."""
        if not self._upstream.private:
            return fresh_message(asked, None)
        if asked.request.session is not None:
            request = replace(asked.request, session=f"{caller.owner}/{asked.request.session}")
            asked = replace(asked, request=request)
        return fresh_message(asked, ticket)

    def _metadata(self, caller: Caller) -> tuple[tuple[str, str], ...]:
        """Return what another gateway learns of the caller. Triton gets no headers."""
        if self._upstream.private:
            return ()
        told = [(REQUEST_ID, caller.request_id), (FORWARDED_FOR, caller.address)]
        if caller.traceparent:
            told.append((TRACEPARENT, caller.traceparent))
        return tuple([*told, ("authorization", f"Bearer {caller.token}")] if caller.token else told)

    def _piece(self, data: bytes, request_id: str) -> Piece:
        message = service_pb2.ModelStreamInferResponse.FromString(data)
        if message.error_message:
            raise public_error(message.error_message, request_id)
        response = message.infer_response
        raw = dict(zip((output.name for output in response.outputs), response.raw_output_contents, strict=False))
        samples = len(raw.get("AUDIO", b"")) // 4
        frame = int.from_bytes(raw.get("FRAME", b""), "little")
        finish = raw.get("FINISH", b"")[4:].decode(errors="replace")
        return Piece(data, message, samples, frame + -(-samples // FRAME_SAMPLES), finish)

    def _record(self, utterance: _Utterance) -> None:
        if utterance.span:
            spoken = {"misotts.audio_s": utterance.samples / SAMPLE_RATE, "misotts.outcome": utterance.outcome}
            utterance.span.set_attributes(spoken)
            utterance.span.end()
        tenant = utterance.caller.tenant
        self.counts.requests.labels(tenant, utterance.outcome).inc()
        if utterance.ticket:
            self.counts.characters.labels(tenant).inc(len(utterance.asked.request.text))
            self.counts.audio.labels(tenant).inc(utterance.samples / SAMPLE_RATE)
        if utterance.first_s is not None:
            self.counts.first_audio.observe(utterance.first_s)
        if utterance.audible_s is not None:
            self.counts.first_audible.observe(utterance.audible_s)
        if utterance.leading_silence_s is not None:
            self.counts.leading_silence.observe(utterance.leading_silence_s)
        self._access.write(
            utterance.caller,
            duration_s=time.monotonic() - utterance.began,
            ttfa_s=utterance.first_s,
            audible_ttfa_s=utterance.audible_s,
            leading_silence_s=utterance.leading_silence_s,
            audio_s=utterance.samples / SAMPLE_RATE,
            characters=len(utterance.asked.request.text),
            outcome=utterance.outcome,
        )


class _Utterance:
    """What the core knows of one utterance."""

    def __init__(self, asked: Asked, caller: Caller) -> None:
        self.asked, self.caller = asked, caller
        self.began = time.monotonic()
        self.task = asyncio.current_task()
        self.ticket = 0
        self.span: Any = None
        """OpenTelemetry's span; None if none are made."""
        self.first_s: float | None = None
        self.leading_silence_s: float | None = None
        """Audio before the first audible sample; None while there is none."""
        self.given_samples = 0
        self.begun = False
        """True once a piece has been given."""
        self.given_at = 0.0
        """Time since which a piece waits for its caller; 0 if none does."""
        self.samples = 0
        self.frames = 0
        self.finish = ""
        self.outcome = "CANCELLED"

    @property
    def audible_s(self) -> float | None:
        """Time to the first audible sample: see `misotts_client.Speech.audible_ttfa_s`."""
        if self.first_s is None or self.leading_silence_s is None:
            return None
        return self.first_s + self.leading_silence_s

    def give(self, piece: Piece) -> None:
        self.begun = True
        self.given_at = time.monotonic()
        if piece.samples and self.first_s is None:
            self.first_s = self.given_at - self.began
        if piece.samples and self.leading_silence_s is None:
            silence_s = leading_silence_s(piece.audio)
            if silence_s is not None:
                self.leading_silence_s = self.given_samples / SAMPLE_RATE + silence_s
        self.given_samples += piece.samples

    def took(self, piece: Piece) -> None:
        self.given_at = 0.0
        self.samples += piece.samples
        self.frames = max(self.frames, piece.frames)
        if piece.finish:
            self.finish = piece.finish
            error = error_of(piece.finish)
            self.outcome = error.code if error else piece.finish


def fresh_message(asked: Asked, ticket: int | None) -> bytes:
    """Return a fresh message for the private side: nothing of the caller's own bytes is in it."""
    message = infer_request(asked.request)
    message.id = asked.id
    if asked.empty_final:
        message.parameters[EMPTY_FINAL].bool_param = True
    if ticket is not None:
        message.inputs.add(name=INPUT, datatype="INT64", shape=[1])
        message.raw_input_contents.append(struct.pack("<q", ticket))
    return bytes(message.SerializeToString())


async def _responses(call: Any, request_id: str) -> AsyncGenerator[bytes]:
    try:
        async for data in call:
            yield data
    except grpc.aio.AioRpcError as error:
        raise lost_call(error, request_id) from None
    except asyncio.CancelledError:
        # gRPC raises this also for a call that the other side has cancelled; then no task is being cancelled.
        with suppress(AttributeError):
            task = asyncio.current_task()
            if task is not None and not task.cancelling() and call.cancelled():
                raise Unavailable("the server ended the stream") from None
        raise
