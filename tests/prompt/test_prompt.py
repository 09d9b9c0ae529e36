"""Prompts: segments, tags, the frame of zeros, dropped context, and the limits of the context length."""

import logging
import time
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from tokenizers import Tokenizer as HuggingFaceTokenizer

from misotts.config import FRAME_MS, FRAME_SAMPLES, MASKED, SAMPLE_RATE, ModelConfig
from misotts.prompt.builder import Prompter
from misotts.prompt.coded_segment import CodedSegment
from misotts.prompt.tokenizer import Tokenizer
from misotts.prompt.voices import Voices
from misotts_client.contract import MAX_TEXT
from misotts_client.errors import DeadlineExceeded, InvalidArgument
from misotts_client.request import Segment, SpeechRequest
from tests.support.models import config_with


@pytest.fixture(scope="module")
def tokenizer(demo_folder: Path, config: ModelConfig) -> Tokenizer:
    return Tokenizer(demo_folder, config)


@pytest.fixture(scope="module")
def prompter(demo_folder: Path, config: ModelConfig, tmp_path_factory: pytest.TempPathFactory) -> Prompter:
    voices = tmp_path_factory.mktemp("voices")
    square = np.tile(np.repeat([0.5, -0.5], 60), 400)  # 2 s: 25 frames
    soundfile.write(voices / "anna.wav", square, SAMPLE_RATE)
    (voices / "anna.txt").write_text("My voice.\n")
    return Prompter(demo_folder, config, canned_codes, Voices(voices))


def canned_codes(audio: np.ndarray, pause: object = None) -> np.ndarray:
    """Return codes for a clip without a codec: its loudness in every column."""
    frames = -(-len(audio) // FRAME_SAMPLES)
    return np.full((frames, 32), round(float(np.abs(audio).max()) * 10), np.int32)


def clip(frames: int, code: int = 1) -> np.ndarray:
    return np.full(frames * FRAME_SAMPLES, code / 10, np.float32)


def texts(frames: np.ndarray) -> list[list[int]]:
    """Return the runs of text tokens."""
    runs: list[list[int]] = []
    for n, token in enumerate(frames[:, -1]):
        if token != MASKED:
            if n == 0 or frames[n - 1, -1] == MASKED or token == 0:  # 0 is BOS
                runs.append([])
            runs[-1].append(int(token))
    return runs


def text_frames(tokenizer: Tokenizer, text: str, speaker: int) -> np.ndarray:
    tokens = tokenizer.encode(text, speaker)
    frames = np.full((len(tokens), 33), MASKED, np.int32)
    frames[:, -1] = tokens
    return frames


def audio_frames(frames: int, code: int) -> np.ndarray:
    """Return the rows of a clip and the frame of zeros."""
    out = np.full((frames + 1, 33), code, np.int32)
    out[-1] = 0
    out[:, -1] = MASKED
    return out


def test_text_alone(prompter: Prompter, tokenizer: Tokenizer) -> None:
    prompt = prompter.build(SpeechRequest("  Hello there.", speaker=3))
    assert prompt.frames.dtype == np.int32
    assert np.array_equal(prompt.frames, text_frames(tokenizer, "Hello there.", 3))
    assert (prompt.temperature, prompt.top_k, prompt.chunk_frames, prompt.deadline) == (0.9, 50, 0, None)
    assert (prompt.max_frames, prompt.guarded, prompt.lead_ms) == (6_000 // FRAME_MS, True, None)


def test_the_voice_then_the_segments_then_the_text(prompter: Prompter, tokenizer: Tokenizer) -> None:
    context = [Segment("First.", 1, clip(4, 2)), Segment("Second.", 2, clip(3, 3)[:-100])]
    prompt = prompter.build(SpeechRequest("Third.", speaker=5, voice="anna", context=context))
    parts = [("My voice.", 5, 25, 5), ("First.", 1, 4, 2), ("Second.", 2, 3, 3)]
    rows = [(text_frames(tokenizer, text, speaker), audio_frames(*clip)) for text, speaker, *clip in parts]
    assert np.array_equal(prompt.frames, np.concatenate([*chain(*rows), text_frames(tokenizer, "Third.", 5)]))


def test_an_order_tells_the_voice_from_what_a_turn_brings(prompter: Prompter, tokenizer: Tokenizer) -> None:
    """Speech as codes has the rows of a clip with these codes. The gateway has put the owner before the name."""
    given = [Segment("One.", 1, clip(3, 2)), CodedSegment("Two.", 2, np.full((4, 32), 5, np.int32))]
    request = SpeechRequest("Hello.", voice="anna", context=given, session="10.0.0.1/call-7", session_heard_ms=80)
    order, dropped = prompter.complete(prompter.check(request))
    voice = [text_frames(tokenizer, "My voice.", 0), audio_frames(25, 5)]
    new = [text_frames(tokenizer, "One.", 1), audio_frames(3, 2), text_frames(tokenizer, "Two.", 2), audio_frames(4, 5)]
    assert np.array_equal(order.frames, np.concatenate([*voice, *new, text_frames(tokenizer, "Hello.", 0)]))
    assert (order.voice, dropped) == (sum(map(len, voice)), 0)
    assert (order.session, order.heard_ms, order.session_end) == ("10.0.0.1/call-7", 80, 0)
    ended, _ = prompter.complete(prompter.check(SpeechRequest("", session="call-7", session_end=1)))
    assert (ended.frames.shape, ended.session) == ((0, 33), "call-7")


@pytest.mark.parametrize("miso", [True, False], ids=["MisoTTS", "CSM"])
def test_white_space_at_the_beginning_of_text_context_and_voice(
    miso: bool, demo_folder: Path, config: ModelConfig, tokenizer: Tokenizer, tmp_path: Path
) -> None:
    soundfile.write(tmp_path / "anna.wav", np.tile(np.repeat([0.5, -0.5], 60), 400), SAMPLE_RATE)
    (tmp_path / "anna.txt").write_text("\n\u00a0My voice.\n")
    family = config_with(config, speaker_space=miso)
    prompt = Prompter(demo_folder, family, canned_codes, Voices(tmp_path)).build(
        SpeechRequest("\r\nThird.", voice="anna", context=[Segment("\tFirst.", 0, clip(2))])
    )
    framed = (
        ["[0] My voice.", "[0] First.", "[0] Third."]
        if miso
        else ["[0]\n\u00a0My voice.", "[0]\tFirst.", "[0]\r\nThird."]
    )
    library = HuggingFaceTokenizer.from_file(str(demo_folder / "tokenizer.json"))
    assert texts(prompt.frames) == [library.encode(text).ids for text in framed]


def test_a_seed_is_fresh_unless_the_request_has_one(prompter: Prompter) -> None:
    drawn = {prompter.build(SpeechRequest("Hello.")).seed for _ in range(20)}
    assert len(drawn) == 20
    assert all(0 <= seed < 2**63 for seed in drawn)
    assert prompter.build(SpeechRequest("Hello.", seed=-5)).seed == -5


def test_the_time_limit_runs_from_the_arrival_of_the_request(prompter: Prompter) -> None:
    request = SpeechRequest("Hello.", timeout_ms=5_000)
    arrived = time.monotonic() - 2
    checked = prompter.check(request, arrived)
    order, _ = prompter.complete(checked)
    assert order.deadline == arrived + 5
    with pytest.raises(DeadlineExceeded):
        prompter.check(request, arrived - 3)
    with pytest.raises(DeadlineExceeded):
        prompter.complete(replace(checked, deadline=arrived))


def test_only_context_and_new_voices_need_the_codec(demo_folder: Path, config: ModelConfig, folder: Path) -> None:
    prompter = Prompter(demo_folder, config, canned_codes, Voices(folder))
    voice = SpeechRequest("Hello.", voice="ann")
    checked = prompter.check(voice)
    assert checked.encodes
    prompter.complete(checked)
    assert not prompter.check(voice).encodes
    assert prompter.check(replace(voice, speaker=1)).encodes, "the tag of its text differs"
    assert prompter.check(replace(voice, context=[Segment("Old.", 0, clip(1))])).encodes
    assert not prompter.check(SpeechRequest("Hello.")).encodes
    (folder / "ann.txt").write_text("Other words.")
    assert prompter.check(voice).encodes


def positions(tokenizer: Tokenizer, text: str, audio: int, speaker: int = 0) -> int:
    return len(tokenizer.encode(text, speaker)) + audio + 1


def test_context_that_just_fits_stays_and_one_frame_more_is_dropped(
    prompter: Prompter, tokenizer: Tokenizer, config: ModelConfig, caplog: pytest.LogCaptureFixture
) -> None:
    own = len(tokenizer.encode("Speak.", 0))
    newer = positions(tokenizer, "New.", 30)
    max_frames = 1000
    room = config.max_seq_len - max_frames - own - newer
    fitting = room - positions(tokenizer, "Old.", 0)
    for audio, kept in ((fitting, 2), (fitting + 1, 1)):
        caplog.clear()
        context = [Segment("Old.", 0, clip(audio)), Segment("New.", 0, clip(30))]
        with caplog.at_level(logging.INFO, logger="misotts.prompt.builder"):
            request = SpeechRequest("Speak.", context=context, max_audio_ms=max_frames * FRAME_MS)
            prompt, dropped = prompter.complete(prompter.check(request))
        assert prompt.max_frames == max_frames
        assert dropped == 2 - kept
        spoken = ["Old.", "New.", "Speak."][2 - kept :]
        assert texts(prompt.frames) == [tokenizer.encode(text, 0) for text in spoken]
        assert len(prompt.frames) + max_frames == config.max_seq_len or kept == 1
        assert [record.message for record in caplog.records] == ["dropped 1 context segments that do not fit"] * dropped


def test_the_oldest_segments_are_dropped_first_without_a_gap(prompter: Prompter, tokenizer: Tokenizer) -> None:
    """A small segment that is older than a dropped one is dropped too."""
    clips = {"Small.": 2, "Large.": 1100, "Middle.": 20, "New.": 10}
    context = [Segment(text, 0, clip(frames)) for text, frames in clips.items()]
    prompt = prompter.build(SpeechRequest("Speak.", context=context, max_audio_ms=90_000))
    assert texts(prompt.frames) == [tokenizer.encode(text, 0) for text in ("Middle.", "New.", "Speak.")]


def test_a_dropped_segment_is_not_encoded(demo_folder: Path, config: ModelConfig) -> None:
    encoded: list[int] = []

    def encode(audio: np.ndarray, pause: object) -> np.ndarray:
        encoded.append(len(audio))
        return canned_codes(audio)

    context = [Segment("Long.", 0, clip(1_500)), Segment("Short.", 0, clip(3))]
    request = SpeechRequest("Hello.", context=context, max_audio_ms=100_000)
    Prompter(demo_folder, config, encode, Voices(None)).build(request)
    assert encoded == [3 * FRAME_SAMPLES]


def test_the_voice_is_never_dropped(prompter: Prompter, tokenizer: Tokenizer, config: ModelConfig) -> None:
    needed = positions(tokenizer, "My voice.", 25) + len(tokenizer.encode("Speak.", 0))
    room = config.max_seq_len - needed
    request = SpeechRequest("Speak.", voice="anna", context=[Segment("Old.", 0, clip(5))], max_audio_ms=room * FRAME_MS)
    prompt = prompter.build(request)
    assert len(prompt.frames) == needed
    assert prompt.max_frames == room
    with pytest.raises(InvalidArgument, match=f"must be at most {room * FRAME_MS} beside a text and voice of {needed}"):
        prompter.build(SpeechRequest("Speak.", voice="anna", max_audio_ms=(room + 1) * FRAME_MS))


def text_of(tokenizer: Tokenizer, tokens: int) -> str:
    """Return a text that takes exactly `tokens` positions."""
    text = "a" + " 7" * MAX_TEXT
    text = text[: 1 + 2 * (tokens - len(tokenizer.encode("a", 0)))]
    while len(tokenizer.encode(text, 0)) > tokens:
        text = text[:-1]
    assert len(tokenizer.encode(text, 0)) == tokens
    return text


def test_the_longest_text_leaves_one_frame(demo_folder: Path, config: ModelConfig, tokenizer: Tokenizer) -> None:
    prompter = Prompter(demo_folder, config_with(config, max_seq_len=100), canned_codes, Voices(None))
    assert prompter.build(SpeechRequest(text_of(tokenizer, 60))).max_frames == 40
    assert prompter.build(SpeechRequest(text_of(tokenizer, 99))).max_frames == 1
    assert prompter.build(SpeechRequest(text_of(tokenizer, 60), max_audio_ms=40 * FRAME_MS)).max_frames == 40
    with pytest.raises(InvalidArgument, match=r"^MAX_AUDIO_MS|must be at most 3200 beside") as caught:
        prompter.build(SpeechRequest(text_of(tokenizer, 60), max_audio_ms=41 * FRAME_MS))
    assert caught.value.field == "MAX_AUDIO_MS"
    with pytest.raises(InvalidArgument, match="must be below 100 positions, got 100") as caught:
        prompter.build(SpeechRequest(text_of(tokenizer, 100)))
    assert caught.value.field == "TEXT"


def test_published_limits_of_the_full_context(prompter: Prompter, tokenizer: Tokenizer) -> None:
    """90 s leave 923 positions, 160 s leave 48."""
    for ms, left in ((90_000, 923), (160_000, 48)):
        fitting = prompter.build(SpeechRequest(text_of(tokenizer, left), max_audio_ms=ms))
        assert len(fitting.frames) == left
        with pytest.raises(InvalidArgument):
            prompter.build(SpeechRequest(text_of(tokenizer, left + 1), max_audio_ms=ms))


def test_context_is_checked(prompter: Prompter, config: ModelConfig) -> None:
    largest = config.max_seq_len * FRAME_SAMPLES
    broken = clip(2)
    broken[7] = np.nan
    for segment, field in (
        (Segment(" ", 0, clip(1)), "CONTEXT_TEXT"),
        (Segment("a", 100, clip(1)), "CONTEXT_SPEAKER"),
        (Segment("a", 0, clip(0)), "CONTEXT_SAMPLES"),
        (Segment("a", 0, broken), "CONTEXT_AUDIO"),
        (Segment("a", 0, np.zeros(largest + 1, np.float32)), "CONTEXT_AUDIO"),
    ):
        with pytest.raises(InvalidArgument) as caught:
            prompter.build(SpeechRequest("Hello.", context=[segment]))
        assert caught.value.field == field
    prompter.build(SpeechRequest("Hello.", context=[Segment("a", 0, np.zeros(largest, np.float32))]))
    prompter.build(SpeechRequest("Hello.", context=[Segment("a", 0, clip(1))] * 1024))
    with pytest.raises(InvalidArgument, match="at most 1024 segments, got 1025") as caught:
        prompter.build(SpeechRequest("Hello.", context=[Segment("a", 0, clip(1))] * 1025))
    assert caught.value.field == "CONTEXT_TEXT"


@pytest.mark.parametrize(
    ("model", "given", "expected"),
    [
        ({}, {}, (0.9, 50)),
        ({"temperature": 0.5, "top_k": 20}, {}, (0.5, 20)),
        ({"top_k": 20}, {}, (0.9, 20)),
        ({"temperature": 0.5, "top_k": 20}, {"temperature": 0.0, "top_k": 3}, (0.0, 3)),
    ],
)
def test_the_model_states_its_own_sampling(
    model: dict[str, float], given: dict[str, Any], expected: tuple[float, int], demo_folder: Path, config: ModelConfig
) -> None:
    prompter = Prompter(demo_folder, config_with(config, sampling=model), canned_codes, Voices(None))
    order = prompter.build(SpeechRequest("Hello.", **given))
    assert (order.temperature, order.top_k) == expected
