"""Mimi in slots: streamed equals whole, slots are independent, and speech does not end abruptly."""

import copy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from moshi.models.compression import MimiModel

from demo.model import CONFIG as DEMO
from demo.model import make_mimi_weights
from misotts.config import FRAME_SAMPLES, ModelConfig
from misotts.decode.decoder import MAX_FRAMES, TAIL_LOUDNESS, TAIL_SAMPLES, Decoder
from misotts.engines.interface import Sampling
from misotts.mimi import build_mimi, encode, load_mimi
from misotts.slots import PACKED_SHARE, Piece, call_rows, possible_rows
from misotts.synthesizer import Synthesizer
from misotts.watermark.watermarker import Watermarker
from misotts_client.errors import EOS, LENGTH

SLOTS = 4
LONG = 190
"""Number of frames: 15.2 s, more than the 10 s of Mimi's attention."""

TOLERANCE = 1e-6
CONFIG = ModelConfig.from_dict(DEMO)


@pytest.fixture(scope="module")
def mimi(demo_folder: Path) -> MimiModel:
    return load_mimi(demo_folder, CONFIG)


@pytest.fixture(scope="module")
def decoder(mimi: MimiModel) -> Decoder:
    return Decoder(copy.deepcopy(mimi), SLOTS)  # a copy, because the reference `mimi` must not stream


def make_codes(frames: int, seed: int) -> np.ndarray:
    codes = np.random.default_rng(seed).integers(0, CONFIG.audio_codes, (frames, CONFIG.audio_num_codebooks))
    return codes.astype(np.int32)


def with_end(codes: np.ndarray) -> np.ndarray:
    """Append the frame that ends speech."""
    return np.concatenate([codes, np.zeros_like(codes[:1])])


def whole(mimi: MimiModel, codes: np.ndarray) -> np.ndarray:
    """Decode a whole utterance by moshi's own method."""
    with torch.inference_mode():
        return mimi.decode(torch.from_numpy(codes.T.astype(np.int64))[None])[0, 0].numpy()


def stream(decoder: Decoder, codes: np.ndarray, sizes: list[int], slot: int = 0) -> np.ndarray:
    """Decode in pieces of `sizes` frames, which repeat."""
    audio: list[np.ndarray] = []
    start = 0
    while start < len(codes) or not audio:
        size = sizes[len(audio) % len(sizes)]
        (samples,) = decoder.decode([Piece(slot, start == 0, codes[start : start + size])])
        audio.append(samples)
        start += size
    return np.concatenate(audio)


@pytest.mark.parametrize("sizes", [[1], [3], [MAX_FRAMES], [60], [1, 2, 4, 8], [7, 1, 25, 2]], ids=str)
def test_streamed_equals_whole_beyond_the_attentions_context(
    decoder: Decoder, mimi: MimiModel, sizes: list[int]
) -> None:
    codes = make_codes(LONG, seed=1)
    audio = stream(decoder, codes, sizes)
    assert len(audio) == LONG * FRAME_SAMPLES
    expected = whole(mimi, codes)
    assert np.abs(audio - expected).max() < TOLERANCE
    assert expected.std() > 1e4 * TOLERANCE


@pytest.mark.slow
def test_streamed_equals_whole_at_the_published_size() -> None:
    config = ModelConfig.from_dict({**DEMO, "mimi": {}})
    torch.manual_seed(0)
    state = make_mimi_weights(config)
    mimi = build_mimi(config).eval().requires_grad_(False)
    mimi.load_state_dict(state)
    codes = make_codes(LONG, seed=1)
    expected = whole(mimi, codes)
    audio = stream(Decoder(mimi, slots=1), codes, [1, 2, 4, 8])
    distance = float(np.abs(audio - expected).max())
    print(f"{LONG} frames: streamed within {distance:.1e} of whole, RMS {expected.std():.3f}")
    assert distance < TOLERANCE
    assert expected.std() > 0.01


@pytest.mark.parametrize("slots", [SLOTS, 16])
def test_streams_of_all_lengths_share_calls(decoder: Decoder, mimi: MimiModel, slots: int) -> None:
    """Each stream sounds as if it were alone: streams start at different times, are cut differently and reuse slots, in
    calls over the first rows and over packed rows."""
    decoder = decoder if slots == SLOTS else Decoder(copy.deepcopy(mimi), slots)
    random = np.random.default_rng(2)
    lengths = [150, 40, 170, 9, 60]
    waiting = [(make_codes(length, seed), length) for seed, length in enumerate(lengths)]
    running: dict[int, tuple[np.ndarray, int, list[np.ndarray]]] = {}
    done: list[tuple[np.ndarray, list[np.ndarray]]] = []
    while waiting or running:
        free = [slot for slot in range(slots) if slot not in running]
        if waiting and len(running) < SLOTS and random.random() < 0.5:
            running[int(random.choice(free))] = (waiting.pop()[0], 0, [])
        pieces = []
        for slot, (codes, start, _) in running.items():
            if random.random() < 0.8:
                pieces.append(
                    Piece(slot, start == 0, codes[start : start + int(random.integers(0 if start else 1, 12))])
                )
        for piece, audio in zip(pieces, decoder.decode(pieces), strict=True):
            codes, start, heard = running[piece.slot]
            assert len(audio) == len(piece.data) * FRAME_SAMPLES
            heard.append(audio)
            running[piece.slot] = (codes, start + len(piece.data), heard)
            if start + len(piece.data) == len(codes):
                done.append((codes, heard))
                del running[piece.slot]
    assert len(done) == len(lengths)
    for codes, heard in done:
        assert np.abs(np.concatenate(heard) - whole(mimi, codes)).max() < TOLERANCE
    assert any(packed for _, packed, _ in decoder._rows._views)


@given(slots=st.integers(1, 300), data=st.data())
def test_a_call_has_rows_for_its_streams_and_few_others(slots: int, data: st.DataObject) -> None:
    members = data.draw(st.lists(st.integers(0, slots - 1), min_size=1, unique=True))
    rows, packed = call_rows(members, slots)
    assert (rows, packed) in possible_rows(slots)
    assert len(members) <= rows <= slots
    if packed:
        assert rows < 2 * len(members)
        assert rows <= slots // PACKED_SHARE
    else:
        assert max(members) < rows
        assert rows <= max(2 * max(members), 1)
        assert rows < 4 * len(members) or len(members) > slots // (2 * PACKED_SHARE) or slots < PACKED_SHARE


def test_a_short_piece_does_not_wait_for_a_long_one(decoder: Decoder, monkeypatch: pytest.MonkeyPatch) -> None:
    lengths = [30, 1, 0, 8]
    pieces = [Piece(slot, True, make_codes(length, slot)) for slot, length in enumerate(lengths)]
    calls = []
    decode = decoder._rows.decode

    def counted(codes_of: Any) -> Any:
        calls.append(len(codes_of))
        return decode(codes_of)

    monkeypatch.setattr(decoder._rows, "decode", counted)
    done = [(number, len(calls), len(audio) // FRAME_SAMPLES) for number, audio in decoder.decode_each(pieces)]
    assert done == [(2, 0, 0), (1, 1, 1), (3, 2, 8), (0, 3 + (30 - 8) // MAX_FRAMES, 30)]


def test_a_reset_changes_no_bit_of_the_other_slots(decoder: Decoder) -> None:
    codes = [make_codes(40, seed) for seed in range(SLOTS)]

    def run(restart: bool) -> list[np.ndarray]:
        heard: list[list[np.ndarray]] = [[] for _ in range(SLOTS)]
        for start in range(0, 40, 4):
            first = [start == 0 or (restart and start == 20 and slot == 1) for slot in range(SLOTS)]
            pieces = [Piece(slot, first[slot], codes[slot][start : start + 4]) for slot in range(SLOTS)]
            for slot, audio in enumerate(decoder.decode(pieces)):
                heard[slot].append(audio)
        return [np.concatenate(parts) for parts in heard]

    plain, restarted = run(restart=False), run(restart=True)
    assert [np.array_equal(a, b) for a, b in zip(plain, restarted, strict=True)] == [True, False, True, True]


def test_a_clip_is_encoded_to_moshis_codes(mimi: MimiModel) -> None:
    """The clip is padded with silence to whole frames and not changed otherwise."""
    audio = np.random.default_rng(3).normal(0, 0.1, 10 * FRAME_SAMPLES - 700).astype(np.float32)
    padded = torch.from_numpy(np.pad(audio, (0, 700))).view(1, 1, -1)
    with torch.inference_mode():
        expected = mimi.encode(padded)[0].T.numpy()
    codes = encode(mimi, audio)
    assert codes.dtype == np.int32
    assert codes.shape == (10, CONFIG.audio_num_codebooks)
    assert np.array_equal(codes, expected)


def test_a_loud_end_gets_the_end_frame_for_any_cut(decoder: Decoder, mimi: MimiModel) -> None:
    speech = make_codes(30, seed=4)
    ended = with_end(speech)
    expected = whole(mimi, ended)
    abrupt = expected[: len(speech) * FRAME_SAMPLES]
    assert loudness(abrupt[-TAIL_SAMPLES:]) > TAIL_LOUDNESS
    for sizes in ([1], [4], [30, 1], [31], [15, 16]):
        audio = stream(decoder, ended, sizes)
        assert len(audio) == 31 * FRAME_SAMPLES
        assert np.abs(audio - expected).max() < TOLERANCE


def test_a_quiet_end_gets_no_end_frame(mimi: MimiModel) -> None:
    decoder = Decoder(quieter(mimi), slots=1)
    speech = make_codes(30, seed=4)
    ended = with_end(speech)
    for sizes in ([1], [4], [30, 1], [31], [15, 16]):
        audio = stream(decoder, ended, sizes)
        assert len(audio) == len(speech) * FRAME_SAMPLES
        assert 0 < loudness(audio) < TAIL_LOUDNESS
        assert np.abs(audio - stream(decoder, speech, sizes)).max() < TOLERANCE


def test_an_utterance_of_only_the_end_frame_is_silent(decoder: Decoder) -> None:
    stream(decoder, make_codes(5, seed=5), [5])  # the slot's previous utterance ends loud
    end = np.zeros((1, CONFIG.audio_num_codebooks), np.int32)
    assert len(stream(decoder, end, [1])) == 0


def loudness(audio: np.ndarray) -> float:
    return float(np.sqrt(np.mean(audio**2)))


def quieter(mimi: MimiModel) -> MimiModel:
    """Return the same codec 40 dB quieter: its last layer is linear."""
    quiet = copy.deepcopy(mimi)
    last = [module for module in quiet.decoder.modules() if isinstance(module, torch.nn.Conv1d)][-1]
    last.weight.mul_(0.01)
    assert last.bias is not None
    last.bias.mul_(0.01)
    return quiet


@dataclass
class CannedDepth:
    """Returns the frames of one utterance for any input."""

    frames: np.ndarray
    count: int = 0

    def forward(self, hidden: torch.Tensor, sampling: Sampling) -> tuple[torch.Tensor, torch.Tensor]:
        codes = torch.from_numpy(self.frames[self.count % len(self.frames)].astype(np.int64))[None]
        self.count += 1
        return codes, torch.zeros_like(hidden)


@pytest.mark.parametrize(("max_frames", "finish", "frames"), [(50, EOS, 21), (21, EOS, 21), (20, LENGTH, 20)])
@pytest.mark.parametrize("chunk_frames", [0, 1, 3, 20, 25])
def test_the_synthesizers_audio_has_the_tail_and_its_frames_do_not(
    demo_folder: Path, mimi: MimiModel, chunk_frames: int, max_frames: int, finish: str, frames: int
) -> None:
    """20 frames and the end frame are 21 with the tail. An utterance that is cut at its length has no tail."""
    ended = with_end(make_codes(20, seed=6))
    fields = dict(max_audio_ms=max_frames * 80, chunk_frames=chunk_frames)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("misotts.engines.load.CompiledDepth", lambda *_: CannedDepth(ended))
        patch.setattr(Watermarker, "mark", lambda _, pieces: [piece.data for piece in pieces])
        with Synthesizer.load(demo_folder) as synthesizer:
            chunks = list(synthesizer.stream("Hello.", **fields))
        with Synthesizer.load(demo_folder) as synthesizer:
            codes = synthesizer.frames("Hello.", **fields)
    assert chunks[-1].finish == finish
    starts = np.cumsum([0, *(len(chunk.audio) for chunk in chunks)])
    assert [chunk.frame * FRAME_SAMPLES for chunk in chunks] == list(starts[:-1])
    assert starts[-1] == frames * FRAME_SAMPLES
    audio = np.concatenate([chunk.audio for chunk in chunks])
    assert np.abs(audio - whole(mimi, ended[:frames])).max() < TOLERANCE
    assert np.array_equal(codes, ended[:20])
