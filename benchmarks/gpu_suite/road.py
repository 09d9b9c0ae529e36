"""Section `road`: the library's four stages in one process, without Triton: how soon a caller hears something, and how
many callers the device speaks for in real time.

One thread generates, the main thread decodes and marks whatever has come. On a server every stage has a process of its
own, and Triton between them; so this is not what a server does, but what its device allows.
"""

from __future__ import annotations

import queue
import statistics
import time
from contextlib import closing, nullcontext
from functools import partial
from pathlib import Path

import torch

from benchmarks.costs.engines import ENGINES
from benchmarks.costs.timing import memory, synchronize
from benchmarks.gpu_suite.codec import random_mimi, random_silentcipher
from benchmarks.gpu_suite.generate import blocks_that_fit, make_engines
from benchmarks.gpu_suite.section import Section
from demo.model import make_tokenizer
from misotts.config import FRAME_MS, FRAME_SAMPLES, SAMPLE_RATE
from misotts.decode.decoder import Decoder
from misotts.engines.interface import Limits
from misotts.engines.kv_memory import BLOCK_SIZE
from misotts.generate.stream import Chunk
from misotts.generate.utterance import Utterance
from misotts.mimi import encode
from misotts.prompt.builder import Prompter
from misotts.prompt.voices import Voices
from misotts.slots import Piece
from misotts.watermark.watermarker import Watermarker, delay_frames
from misotts_client.errors import MisoError
from misotts_client.request import SpeechRequest

TEXT = "The quick brown fox jumps over the lazy dog, and nobody is surprised."
ENGINE = list(ENGINES)[-1]
"""The last on the list, which is the quickest."""
PATIENCE_S = 60.0


def road(section: Section) -> None:
    """Sends the table `road`, and the median time of the prompt stage."""
    sizes = section.sizes
    with random_silentcipher(sizes.watermark_width) as folder:
        stages = _Stages(section, folder)
        synchronize(section.device)
        # Not on the stream on which the other thread generates: a chunk would wait for the steps before it.
        own_stream = torch.cuda.stream(torch.cuda.Stream()) if section.device == "cuda" else nullcontext()
        with closing(stages), own_stream:
            stages.speak(1, sizes.road_frames)  # kernels are chosen, graphs captured
            section.value("hold_back_frames", delay_frames(folder))
            section.value("prompt_ms", stages.prompt_ms())
            for streams in sizes.streams:
                section.hurry()
                stages.speak(streams, min(4, sizes.road_frames))
                section.row("road", engine=ENGINE, streams=streams, **stages.speak(streams, sizes.road_frames))
    section.value("memory", memory(section.device))


class _Stages:
    def __init__(self, section: Section, folder: Path) -> None:
        self._sizes = section.sizes
        config, device = section.sizes.config, section.device
        most = max(section.sizes.streams)
        num_blocks = min(blocks_that_fit(section), 1 + most * (256 // BLOCK_SIZE))
        engines = make_engines(section, ENGINE, num_blocks, most)
        self._generator = engines.generator(Limits(most, most), delay_frames(folder) + 1)
        mimi = random_mimi(config, device)
        make_tokenizer(min(config.text_vocab_size, 1024)).save(str(folder / "tokenizer.json"))
        self._prompter = Prompter(folder, config, partial(encode, mimi), Voices(None))
        self._decoder = Decoder(mimi, most)
        self._watermarker = Watermarker(folder, most, device=device)
        self._generator.start()

    def close(self) -> None:
        self._generator.close()

    def prompt_ms(self) -> float:
        times = []
        for _ in range(10):
            began = time.perf_counter()
            self._prompter.build(SpeechRequest(TEXT))
            times.append(time.perf_counter() - began)
        return round(statistics.median(times) * 1000, 3)

    def speak(self, streams: int, frames: int) -> dict[str, float]:
        """All callers call at once, and each hears `frames` frames.

        Raises:
            queue.Empty: nothing came for a minute.
        """
        inbox = _Inbox()
        callers: dict[int, _Caller] = {}
        began = time.perf_counter()
        for seed in range(streams):
            request = SpeechRequest(TEXT, max_audio_ms=frames * FRAME_MS, seed=seed)
            utterance = Utterance(self._prompter.build(request))
            callers[utterance.stream] = _Caller(time.perf_counter())
            self._generator.submit(utterance, inbox)
        while not all(caller.done for caller in callers.values()):
            chunks = inbox.take()
            decoded = self._decoder.decode([Piece(c.slot, c.index == 0, c.codes) for c in chunks])
            pieces = [
                Piece(c.slot, c.index == 0, audio, bool(c.finish)) for c, audio in zip(chunks, decoded, strict=True)
            ]
            for chunk, marked in zip(chunks, self._watermarker.mark(pieces), strict=True):
                self._generator.acknowledge(chunk.stream, chunk.index)
                callers[chunk.stream].hear(len(marked), bool(chunk.finish))
        return self._sum_up(list(callers.values()), began, frames)

    def _sum_up(self, callers: list[_Caller], began: float, frames: int) -> dict[str, float]:
        seconds = max(caller.ended for caller in callers) - began
        assert all(caller.samples == frames * FRAME_SAMPLES for caller in callers), "somebody did not hear everything"
        first = sorted((caller.first - caller.called) * 1000 for caller in callers)
        audio = frames * FRAME_SAMPLES / SAMPLE_RATE
        return {
            "first_audio_ms_p50": round(statistics.median(first), 1),
            "first_audio_ms_p95": round(first[int(0.95 * (len(first) - 1) + 0.5)], 1),
            "audio_s_per_s": round(len(callers) * audio / seconds, 2),
            "real_time_factor": round(max(caller.ended - caller.called for caller in callers) / audio, 3),
        }


class _Caller:
    def __init__(self, called: float) -> None:
        self.called, self.first, self.ended = called, 0.0, 0.0
        self.samples, self.done = 0, False

    def hear(self, samples: int, done: bool) -> None:
        now = time.perf_counter()
        if samples and not self.samples:
            self.first = now
        self.samples += samples
        if done:
            self.ended, self.done = now, True


class _Inbox:
    """Chunks of all streams, as the codec takes them: one of a stream at a time."""

    def __init__(self) -> None:
        self._news: queue.SimpleQueue[Chunk | MisoError] = queue.SimpleQueue()
        self.chunk = self.refuse = self._news.put
        self._later: list[Chunk] = []

    def take(self) -> list[Chunk]:
        """What has come, at least one chunk and at most one of each stream."""
        waiting, self._later = self._later, []
        while not waiting or not self._news.empty():
            news = self._news.get(timeout=PATIENCE_S)
            if isinstance(news, MisoError):
                raise news
            waiting.append(news)
        chunks: dict[int, Chunk] = {}
        for chunk in waiting:
            if chunk.stream in chunks:
                self._later.append(chunk)
            else:
                chunks[chunk.stream] = chunk
        return list(chunks.values())
