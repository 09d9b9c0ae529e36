"""generate: orders → chunks of frames, all utterances in one batch. See `misotts.generate.core`."""

from __future__ import annotations

import threading
import time
from itertools import pairwise
from typing import Any

from misotts.engines.interface import Limits
from misotts.engines.load import load_engine
from misotts.generate.loop import Generator
from misotts.generate.statistics import REASONS
from misotts.generate.stream import Chunk
from misotts.generate.utterance import Utterance
from misotts.order import Order
from misotts.serve.stage import acknowledge
from misotts.serve.stage.datagrams import DatagramReceiver
from misotts.serve.stage.header import Header
from misotts.serve.stage.stage import Stage
from misotts.serve.stage.tensors import array, send, text
from misotts.watermark.watermarker import hold_back
from misotts_client.errors import MisoError, finish_of
from misotts_gateway import tickets
from misotts_gateway.spans import SpanSender

PUBLISH_S = 0.1
"""Time between two reports to the gateway, which refuses requests from them."""


class GenerateStage(Stage):
    name = "generate"

    def load(self) -> None:
        settings = self.settings
        if self.device != "cpu":  # the KV pool takes what GPU memory the other stages leave
            self.link.loading("waiting for the other stages")
            self.link.others_ready.wait()
        self.link.loading("backbone, depth decoder, KV pool")
        limits = Limits(max_streams=settings.max_streams)
        engine = load_engine(settings.model, self.config, limits, settings.engines, settings.kv_memory, self.device)
        kept = hold_back(settings.model)
        self.generator = Generator(self.config, engine, limits, kept, settings.flow, settings.sessions)
        self.acknowledgements = DatagramReceiver(
            settings.acknowledge_socket,
            acknowledge.unpack,
            lambda message: self.generator.acknowledge(*message),
            "acknowledgements",
        )
        path = tickets.socket_path(settings.run, "generate")
        self.tickets = DatagramReceiver(path, tickets.unpack, lambda note: self.generator.take(*note), "tickets")
        self.generator.start()
        threading.Thread(target=self._publish, name="admission", daemon=True).start()

    def _publish(self) -> None:
        pause = threading.Event()
        while not pause.wait(PUBLISH_S):
            self.link.publish(self.generator.figures())

    def take(self, request: Any, sender: Any) -> None:
        frames = array(request, "FRAMES")
        parameters = text(request, "ORDER")
        assert frames is not None
        assert parameters is not None
        utterance = Utterance(Order.read(frames.copy(), parameters))
        receiver = NextStage(sender, utterance, self.spans)
        try:
            self.generator.submit(utterance, receiver)
        except MisoError as error:
            receiver.refuse(error)

    def finalize(self) -> None:
        self.generator.close()

    def failure(self) -> Exception | None:
        return self.generator.failure

    def progress(self) -> float:
        return self.generator.last_pass

    def malformed(self) -> int:
        return super().malformed() + self.acknowledgements.malformed + self.tickets.malformed

    def metrics(self) -> dict[str, Any]:
        core = self.generator.core
        counts, scheduler, pool = core.statistics, core.scheduler, core.scheduler.pool
        return {
            "busy_seconds_total": counts.busy_s,
            "steps_total": counts.steps,
            "frames_total": counts.frames,
            "prefilled_positions_total": counts.prefilled,
            "submitted_total": counts.submitted,
            "rejected_total": counts.rejected,
            "preempted_total": scheduler.preempted,
            "runaway_total": counts.guarded,
            "prefix_blocks_shared_total": pool.shared,
            **{f"finished_{reason}_total": counts.finished[reason] for reason in REASONS},
            "streams": len(core.streams),
            "running": len(scheduler.running),
            "paused": core.paused,
            "admissible": core.admission.most,
            "waiting": len(scheduler.waiting),
            "conversations": len(core.conversations),
            "conversation_bytes": core.conversations.bytes,
            **{f"conversation_{name}_total": count for name, count in vars(core.conversations.counts).items()},
            "blocks_used": pool.capacity - pool.available,
            "blocks_cached": pool.num_idle,
            "blocks_free": pool.num_free,
            **counts.take_observations(),
        }


class NextStage:
    """Sends an utterance's chunks to decode."""

    def __init__(self, sender: Any, utterance: Utterance, spans: SpanSender | None = None) -> None:
        self.sender, self.utterance, self.spans = sender, utterance, spans

    def chunk(self, chunk: Chunk) -> None:
        if self.spans and chunk.index == 0 and self.utterance.first_frame_at:
            self.send_spans(self.spans)
        place = chunk.stream, chunk.slot, chunk.index
        header = Header(*place, chunk.seed, chunk.admission, chunk.session_turns, chunk.finish)
        send(self.sender, {"HEADER": header.pack(), "CODES": chunk.codes}, final=bool(chunk.finish))

    def send_spans(self, spans: SpanSender) -> None:
        """Send what has been done for the first chunk."""
        utterance = self.utterance
        times = (
            utterance.submitted_at,
            utterance.admitted_at,
            utterance.sampling_at,
            utterance.first_frame_at,
            time.monotonic(),
        )
        names = ("waiting", "prefill", "first frame", "first chunk")
        for name, (start, end) in zip(names, pairwise(times), strict=True):
            spans.send(name, start, end, utterance.order.ticket, utterance.stream)

    def refuse(self, error: MisoError) -> None:
        """Send a last chunk without frames. In Triton 2.51 an ordinary error of a stage behind the first leaks the
        request: an overloaded server would grow, and its stop would last the whole exit timeout."""
        self.chunk(Chunk.without_frames(self.utterance, finish_of(error)))
