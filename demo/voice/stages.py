"""The stages of the training in their order, each with what it needs and what it makes in the work folder. Minutes are
those of one core, measured when the committed weights were made."""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from demo.voice.files import log

CHUNK = 100
"""Sentences of a file of clips."""


@dataclass(frozen=True)
class Plan:
    """Sizes of the training."""

    chunks: int
    """Files of clips, CHUNK sentences each."""
    number_chunks: int
    """Further files, only of sentences with numbers and abbreviations."""
    with_audio: int
    """Number of the first files that are spoken aloud: the codec is made from these."""
    semantic_steps: int
    shortcut_steps: int
    decoder_steps: int
    polish_steps: int
    encoder_steps: int
    lm_steps: int
    judged: int
    """Held-out sentences that the evaluation speaks with each voice."""
    sentences: int = CHUNK
    most_ms: int = 30_000
    """Longest speech of the evaluation, for an utterance that does not end by itself."""

    @property
    def all_chunks(self) -> int:
        return self.chunks + self.number_chunks


FULL = Plan(400, 120, 58, 2500, 4000, 5400, 1400, 3000, 14000, 76)
REHEARSAL = Plan(4, 1, 2, 20, 20, 4, 2, 4, 4, 1, sentences=8, most_ms=800)


@dataclass
class Work:
    """The input of a stage."""

    folder: Path
    model: Path
    plan: Plan
    worker: int = 0
    workers: int = 1


def resume(work: Work) -> None:
    """Go on from the committed weights: the first stage of an empty work folder, if it is run at all."""
    from demo.voice import resume as resuming

    resuming.restore(work.folder)


def speak(work: Work) -> None:
    """The teacher speaks (36 minutes of one core)."""
    from demo.voice import teacher, text

    engine = teacher.Teacher()
    wordnet = text.fetch_wordnet(work.folder / "wordnet")
    sentences, with_numbers = text.training_text(wordnet), text.number_text(wordnet)
    for number in range(work.plan.all_chunks):
        source = sentences if number < work.plan.chunks else with_numbers
        pairs = list(itertools.islice(source, work.plan.sentences))
        path = work.folder / "clips" / f"{number:04d}.npz"
        if number % work.workers == work.worker and not path.exists():
            teacher.save(path, [engine.speak(pair, number < work.plan.with_audio) for pair in pairs])
            log(f"speak: chunk {number} of {work.plan.all_chunks}")


def shape(work: Work) -> None:
    """Clips with audio become the two voices (2 minutes)."""
    from demo.voice import shaped

    shaped.shape(work.folder, work.plan.with_audio)


def codes(work: Work) -> None:
    """Codes in closed form, and the shortcut to them (3 minutes)."""
    from demo.voice import corpus

    if not (work.folder / "shortcut.pt").exists():
        corpus.fit_codes(work.folder, work.plan.with_audio, work.plan.semantic_steps, work.plan.shortcut_steps)


def encode(work: Work) -> None:
    """All clips become text, codes and what each frame says (5 minutes)."""
    from demo.voice import corpus

    corpus.encode_all(work.folder, work.plan.all_chunks)


def decoder(work: Work) -> None:
    """Mimi's decoder half (49 minutes)."""
    from demo.voice import codec

    codec.train_decoder(work.folder, work.plan.with_audio, work.plan.decoder_steps, work.plan.polish_steps)


def encoder(work: Work) -> None:
    """Mimi's encoder half (9 minutes)."""
    from demo.voice import codec

    codec.train_encoder(work.folder, work.plan.with_audio, work.plan.encoder_steps)


def listen(work: Work) -> None:
    """The codes that the encoder half hears in the clips, from which the language model learns to follow a voice (2
    minutes)."""
    from demo.voice import codec

    codec.listen(work.folder, work.plan.with_audio)


def lm(work: Work) -> None:
    """The language model (128 minutes)."""
    from demo.voice import train_lm

    train_lm.train(work.folder, work.plan.lm_steps)


def export(work: Work) -> None:
    """The model folder, and beside it what `resume` needs and the registered voices."""
    from demo.voice import export as exporter
    from demo.voice import resume as resuming

    exporter.export(work.folder, work.model)
    exporter.register_voices(work.folder / "voices")
    resuming.save_projection(work.folder)


def evaluate(work: Work) -> None:
    """Word error rate and the rest, as `summary.json` beside the model (7 minutes)."""
    from benchmarks.record import record, write
    from demo.voice import evaluate as evaluation

    with evaluation.connected(work.model) as client:
        figures = evaluation.of_model(client, work.model, work.plan.judged, work.plan.most_ms / 1000)
    print(write(work.folder / "summary.json", record(figures)).read_text(encoding="utf-8"))


STAGES: dict[str, Callable[[Work], None]] = {
    stage.__name__: stage
    for stage in (resume, speak, shape, codes, encode, decoder, encoder, listen, lm, export, evaluate)
}


def run_all(work: Work, options: list[str]) -> None:
    """Run every stage, two processes at a time where two can: each in a process of its own with one thread, so that a
    stopped run loses little and goes on where it was."""
    together = [
        [["speak", "--worker", "0", "--workers", "2"], ["speak", "--worker", "1", "--workers", "2"]],
        [["shape"]],
        [["codes"]],
        [["encode"]],
        [["lm"], ["encoder", "listen", "decoder"]],
        [["export"]],
        [["evaluate"]],
    ]
    for lanes in together:
        _run_lanes([_commands(lane) for lane in lanes], options)


def _commands(lane: list[str]) -> list[list[str]]:
    """`speak` with its options is one command; several stages' names are commands one after the other."""
    return [lane] if any(word.startswith("-") for word in lane) else [[stage] for stage in lane]


def _run_lanes(lanes: list[list[list[str]]], options: list[str]) -> None:
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    running: dict[int, subprocess.Popen[bytes]] = {}
    waiting = {number: list(lane) for number, lane in enumerate(lanes)}
    while waiting or running:
        for number, lane in list(waiting.items()):
            if number not in running:
                if not lane:
                    del waiting[number]
                    continue
                running[number] = subprocess.Popen(
                    [sys.executable, "-m", "demo.voice", *lane.pop(0), *options], env=environment
                )
        for number, process in list(running.items()):
            try:
                status = process.wait(timeout=0.5)
            except subprocess.TimeoutExpired:
                continue
            del running[number]
            if status:
                for other in running.values():
                    other.terminate()
                raise SystemExit(status)
