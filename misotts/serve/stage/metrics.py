"""The metrics of the four stages: a table, its publication by Triton, and its page of the docs.

`python -m misotts.serve.stage.metrics` prints docs/metrics.md; `make docs` writes it.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from typing import Any, Literal, NamedTuple


class Metric(NamedTuple):
    """One metric of a stage. Its full name is `misotts_<stage>_<name>`."""

    name: str
    description: str
    """The HELP text."""
    alert: str = ""
    """The condition at which an operator should look at it, and its meaning."""

    @property
    def kind(self) -> Literal["counter", "gauge", "histogram"]:
        if self.name.endswith("_total"):
            return "counter"
        return "histogram" if self.name.endswith("_seconds") else "gauge"


BUSY = Metric("busy_seconds_total", "Seconds that the stage has worked.", "Its rate is near 1: the bottleneck is here.")
MALFORMED = Metric(
    "malformed_messages_total",
    "Number of messages of other processes that the stage has dropped because they made no sense.",
    "It increases: another process of this user writes to the server's sockets.",
)
SENDING = Metric(
    "sending_seconds_total",
    "Seconds in which the stage has sent chunks on, in a thread of its own beside its work.",
    "Its rate is near 1: the bottleneck is here, and the host is too slow for so many chunks.",
)
CHUNKS = Metric("chunks_total", "Number of chunks that the stage has processed.")

METRICS: dict[str, tuple[Metric, ...]] = {
    "prompt": (
        BUSY._replace(description="Seconds that the stage has worked, the sum over its two workers."),
        Metric("prompts_total", "Number of prompts built."),
        Metric(
            "refused_total",
            "Number of requests that this stage refused: a field was wrong, the voice was unknown, too many requests "
            "waited, TIMEOUT_MS had passed, or the server was shutting down.",
            "Its share of all requests rises: a caller or a voice is broken.",
        ),
        Metric(
            "dropped_segments_total",
            "Number of context segments, the oldest of a request first, that did not fit. Callers are not notified.",
            "Its rate rises: callers send more context than the model can read.",
        ),
        Metric(
            "waiting",
            "Number of requests without a built prompt, including those of misotts_prompt_encoding. A request is "
            "refused if 256 others wait that need no encoding.",
            "waiting - encoding is above 10 for a minute: the stage is too slow for its callers.",
        ),
        Metric(
            "encoding",
            "Number of requests with a context or new voice that is being encoded or waits for it. They are encoded "
            "one after the other, and no other request waits for them. A request is refused if 64 others wait.",
            "It is above 10 for a minute: contexts and new voices arrive faster than they can be encoded.",
        ),
        Metric(
            "encoding_seconds_total",
            "Seconds that the stage has encoded contexts and voices, a part of misotts_prompt_busy_seconds_total.",
            "Its rate is near 1: contexts and new voices arrive faster than they can be encoded.",
        ),
    ),
    "generate": (
        BUSY,
        Metric(
            "streams",
            "Number of utterances that wait, run, or have a chunk that is not acknowledged yet.",
            "It stays above 0 without callers: there is a leak.",
        ),
        Metric("running", "Number of utterances that have a slot and KV blocks."),
        Metric(
            "paused",
            "Number of utterances that pause because they are far enough ahead of playback, because their audio is not "
            "taken, or for a listener that is about to run out of audio.",
        ),
        Metric(
            "admissible",
            "Number of utterances that may run: all slots, or with --admission pace as many as the step time allows.",
            "It stays below --max-streams: the machine is too slow for its slots.",
        ),
        Metric("waiting", "Number of utterances in the queue.", "It is above 0 for a minute: add a server."),
        Metric("submitted_total", "Number of utterances that reached the stage."),
        Metric(
            "rejected_total",
            "Number of utterances refused on arrival because a queue was full, the wait for a slot would have "
            "been too long, the caller had left or the server was stopping.",
            "Its rate is above 0: callers get UNAVAILABLE.",
        ),
        Metric("finished_eos_total", "Number of utterances that ended with an end-of-speech frame."),
        Metric(
            "finished_length_total",
            "Number of utterances that ended because they had reached their greatest length.",
            "Its share of finished utterances rises: the model does not find the end of its texts.",
        ),
        Metric(
            "runaway_total",
            "Number of utterances among misotts_generate_finished_length_total that were cut at the length that "
            "--max-audio allows, not at a MAX_AUDIO_MS of their request.",
            "Its share of finished utterances is above 0.05: the model misses the end of its texts.",
        ),
        Metric("finished_cancelled_total", "Number of utterances that ended because the caller left."),
        Metric(
            "finished_deadline_exceeded_total",
            "Number of utterances that ended because their TIMEOUT_MS had passed.",
            "Its share of finished utterances rises: the server is too slow for its callers.",
        ),
        Metric(
            "finished_invalid_argument_total",
            "Number of utterances that ended because another one of their conversation was running.",
            "Its rate stays above 0: a client sends a turn before it has heard or cancelled the one before.",
        ),
        Metric(
            "finished_unavailable_total",
            "Number of utterances that ended because the server stopped, or had no slot for them after all within "
            "twice --max-wait.",
        ),
        Metric("finished_internal_total", "Number of utterances that an error of the server ended.", "It increases."),
        Metric("steps_total", "Number of steps."),
        Metric("frames_total", "Number of frames generated. Divided by the number of steps: the mean batch size."),
        Metric("prefilled_positions_total", "Number of prompt positions computed."),
        Metric("conversations", "Number of conversations that are kept."),
        Metric("conversation_bytes", "Bytes of what was said in them. Their KV blocks are not counted."),
        Metric("conversation_turns_total", "Number of utterances that became a turn of a conversation."),
        Metric(
            "conversation_trimmed_total", "Number of turns with a prompt that was too long, and lost its oldest turns."
        ),
        Metric(
            "conversation_evicted_total",
            "Number of conversations forgotten because there were more than --max-sessions.",
            "Its rate stays above 0: raise --max-sessions, callers get SESSION_TURNS 0 within a conversation.",
        ),
        Metric("conversation_expired_total", "Number of conversations without a turn for --session-seconds."),
        Metric("prefix_blocks_shared_total", "Number of KV blocks of prompts that were found in the pool."),
        Metric(
            "preempted_total",
            "Number of preemptions: an utterance gave up its KV blocks because the pool was empty.",
            "Its rate stays above 0: enlarge the KV pool or lower --max-streams.",
        ),
        Metric("blocks_used", "Number of KV blocks that utterances hold.", "Its share of all blocks is above 0.9."),
        Metric("blocks_cached", "Number of KV blocks that no utterance holds and that keep a prefix."),
        Metric("blocks_free", "Number of KV blocks that are empty."),
        Metric("step_seconds", "Duration of a step.", "Its p95 is above 0.08 s: running streams fall behind playback."),
        Metric(
            "first_frame_seconds",
            "Time from the arrival of an utterance at the stage to its first frame.",
            "Its p95 is above your objective.",
        ),
    ),
    "decode": (BUSY, SENDING, CHUNKS),
    "watermark": (BUSY, SENDING, CHUNKS),
}
METRICS = {stage: (*metrics, MALFORMED) for stage, metrics in METRICS.items()}

BUCKETS_S = [0.002, 0.005, 0.01, 0.015, 0.02, 0.03, 0.04, 0.06, 0.08, 0.12, 0.2, 0.35, 0.6, 1.0, 2.0, 5.0, 10.0]
"""Upper bounds in seconds. 0.08 is a frame: a step above it makes every running stream fall behind."""


class StageMetrics:
    """The metrics of one stage as Triton publishes them."""

    def __init__(self, stage: str) -> None:
        import triton_python_backend_utils as pb_utils  # exists only in a process that Triton started

        self._families: list[Any] = []  # a family must outlive its metric
        self._metrics: dict[str, tuple[Metric, Any]] = {}
        self._published: defaultdict[str, float] = defaultdict(float)
        for metric in METRICS[stage]:
            kind = getattr(pb_utils.MetricFamily, metric.kind.upper())
            name = f"misotts_{stage}_{metric.name}"
            self._families.append(pb_utils.MetricFamily(name=name, description=metric.description, kind=kind))
            options = {"buckets": BUCKETS_S} if metric.kind == "histogram" else {}
            self._metrics[metric.name] = metric, self._families[-1].Metric(labels={}, **options)

    def publish(self, values: Mapping[str, Any]) -> None:
        """Publish all metrics of the stage by name: the total of a counter, the value of a gauge, and what a histogram
        has observed since the last call, in seconds."""
        for name, (metric, published) in self._metrics.items():
            if metric.kind == "histogram":
                for seconds in values[name]:
                    published.observe(seconds)
            elif more := values[name] - self._published[name]:  # each call is a message to Triton and back
                if metric.kind == "counter":
                    published.increment(more)
                else:
                    published.set(values[name])
                self._published[name] = values[name]


def page() -> str:
    """Return the text of docs/metrics.md."""
    lines = [
        "# Metrics",
        "",
        "`GET :8003/metrics` publishes these beside Triton's own and those of the [gateway](gateway.md). They are",
        "renewed every half second, and counters start at 0 with the server. `make docs` writes this page.",
    ]
    for stage, metrics in METRICS.items():
        lines += ["", f"## {stage}", "", "| metric | kind | meaning | alert when |", "|---|---|---|---|"]
        lines += [f"| `misotts_{stage}_{m.name}` | {m.kind} | {m.description} | {m.alert} |" for m in metrics]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    print(page(), end="")
