"""Section `pipeline`: the library's four stages in one process, without Triton: the time to first audio, and the number
of streams that the device generates in real time.

One thread generates, the main thread decodes and marks the chunks that have arrived. A server has a process for each
stage and Triton between them, so this is not the speed of a server, but the most that its device allows.
"""

from __future__ import annotations

import statistics
import time
from collections import deque
from contextlib import closing
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

from benchmarks.costs.codec import random_mimi, random_silentcipher
from benchmarks.costs.engines import ENGINES
from benchmarks.costs.generate import blocks_that_fit, random_engines
from benchmarks.costs.section import Section
from benchmarks.costs.timing import measure, memory
from demo.model import make_tokenizer
from misotts.config import FRAME_MS, FRAME_SAMPLES, SAMPLE_RATE
from misotts.decode.decoder import Decoder
from misotts.engines.interface import Limits
from misotts.engines.kv_memory import BLOCK_SIZE
from misotts.engines.transfer import own_stream
from misotts.generate.inbox import Inbox
from misotts.generate.stream import Chunk
from misotts.generate.utterance import Utterance
from misotts.mimi import encode
from misotts.prompt.builder import Prompter
from misotts.prompt.voices import Voices
from misotts.serve.stage.worker import next_batch
from misotts.slots import Piece
from misotts.watermark.watermarker import Samples, Watermarker, hold_back
from misotts_client.request import SpeechRequest
from misotts_client.speech import leading_silence_s

TEXT = "The quick brown fox jumps over the lazy dog, and nobody is surprised."
ENGINE = ENGINES[-1]
"""The last on the list, which is the fastest."""
PATIENCE_S = 60.0


def pipeline(section: Section) -> None:
    """Sends the table `pipeline`, and the median time of the prompt stage."""
    sizes = section.sizes
    with random_silentcipher(sizes.watermark_width) as folder:
        stages = _Stages(section, folder)
        with closing(stages), own_stream():
            stages.speak(1, sizes.pipeline_frames)  # kernels are chosen, graphs captured
            section.value("hold_back", asdict(hold_back(folder)))
            section.value("prompt_ms", stages.prompt_ms())
            for streams in sizes.streams:
                section.hurry()
                stages.speak(streams, min(4, sizes.pipeline_frames))
                figures = stages.speak(streams, sizes.pipeline_frames)
                section.row("pipeline", engine=ENGINE, streams=streams, **figures)
    section.value("memory", memory(section.device))


@dataclass
class _Heard:
    """The audio that one caller has heard; times in seconds of the clock."""

    called: float
    first: float = 0.0
    silence_s: float | None = None
    """Audio before the first audible sample; None until one has come."""
    ended: float = 0.0
    samples: int = 0


class _Stages:
    def __init__(self, section: Section, folder: Path) -> None:
        config, device = section.sizes.config, section.device
        most = max(section.sizes.streams)
        num_blocks = min(blocks_that_fit(section), 1 + most * (256 // BLOCK_SIZE))
        engines = random_engines(section, ENGINE, num_blocks, most)
        self._generator = engines.generator(Limits(most, most), hold_back(folder))
        mimi = random_mimi(config, device)
        make_tokenizer(min(config.text_vocab_size, 1024)).save(str(folder / "tokenizer.json"))
        self._prompter = Prompter(folder, config, partial(encode, mimi), Voices(None))
        self._decoder = Decoder(mimi, most)
        self._watermarker = Watermarker(folder, most, device=device)
        self._generator.start()

    def close(self) -> None:
        self._generator.close()

    def prompt_ms(self) -> float:
        return measure(lambda: self._prompter.build(SpeechRequest(TEXT)), "cpu", repeats=10).ms

    def speak(self, streams: int, frames: int) -> dict[str, float | None]:
        """Let `streams` callers call at once, each for `frames` frames.

        Raises:
            queue.Empty: nothing came for a minute.
        """
        inbox, rest = Inbox(), deque[Chunk]()
        callers: dict[int, _Heard] = {}
        began = time.perf_counter()
        for seed in range(streams):
            request = SpeechRequest(TEXT, max_audio_ms=frames * FRAME_MS, seed=seed)
            utterance = Utterance(self._prompter.build(request))
            callers[utterance.stream] = _Heard(time.perf_counter())
            self._generator.submit(utterance, inbox)
        while not all(caller.ended for caller in callers.values()):
            while not rest or not inbox.empty():
                rest.append(inbox.next(PATIENCE_S))
            chunks, rest = next_batch(rest, lambda chunk: chunk.stream)
            for chunk, audio in zip(chunks, self._process(chunks), strict=True):
                self._generator.acknowledge(chunk.stream, chunk.index)
                caller, now = callers[chunk.stream], time.perf_counter()
                caller.first = caller.first or (now if len(audio) else 0.0)
                if caller.silence_s is None and (silence_s := leading_silence_s(audio)) is not None:
                    caller.silence_s = caller.samples / SAMPLE_RATE + silence_s
                caller.samples += len(audio)
                caller.ended = now if chunk.finish else 0.0
        return _figures(list(callers.values()), began, frames)

    def _process(self, chunks: list[Chunk]) -> list[Samples]:
        """Decode and mark chunks of different streams."""
        decoded = self._decoder.decode([Piece(c.slot, c.index == 0, c.codes) for c in chunks])
        pieces = [Piece(c.slot, c.index == 0, audio, bool(c.finish)) for c, audio in zip(chunks, decoded, strict=True)]
        return self._watermarker.mark(pieces)


def _figures(callers: list[_Heard], began: float, frames: int) -> dict[str, float | None]:
    seconds = max(caller.ended for caller in callers) - began
    assert all(caller.samples == frames * FRAME_SAMPLES for caller in callers), "a caller did not hear everything"
    first = sorted((caller.first - caller.called) * 1000 for caller in callers)
    audio = frames * FRAME_SAMPLES / SAMPLE_RATE
    # Random weights may speak too softly to be heard at all.
    silences = [caller.silence_s for caller in callers if caller.silence_s is not None]
    audible = [caller.first - caller.called + caller.silence_s for caller in callers if caller.silence_s is not None]
    return {
        "first_audio_ms_p50": round(statistics.median(first), 1),
        "first_audio_ms_p95": round(first[int(0.95 * (len(first) - 1) + 0.5)], 1),
        "audible_ms_p50": round(statistics.median(audible) * 1000, 1) if audible else None,
        "leading_silence_ms_p50": round(statistics.median(silences) * 1000, 1) if silences else None,
        "audio_s_per_s": round(len(callers) * audio / seconds, 2),
        "real_time_factor": round(max(caller.ended - caller.called for caller in callers) / audio, 3),
    }
