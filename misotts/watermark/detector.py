"""Detects whether audio carries the watermark, and whether the mark is that of a given key.

Any audio will do: any rate, any start, a mark that begins or ends in the middle. A reading is a guess of where the
columns and the message begin: `PHASES` positions of the STFT's columns times the 21 of the message. Two questions have
two statistics:

**Is the mark this key's?** Let l(c, v) be the log probability that column c carries symbol v, and T_j(v) its sum over
all columns in which a reading puts the key's symbol j of 20. The score of key k is S(k) = sum over j of T_j(k_j). If
the audio has nothing to do with the key, then a key that was drawn at random meets fixed numbers T, and for every t > 0
(Markov's inequality for exp(t S); symbols independent and equally likely):

    P(S(K) >= S(k)) <= exp(-t S(k)) * product over j of mean over v = 1..4 of exp(t T_j(v))

The readings are tried together (weighted Bonferroni): a reading's bound is divided by its weight, and the weights add
up to 1. They favour readings that are likely without the key: half of the weight is the probability of the reading,
given the start symbol and any key; the other half is shared equally. The least quotient is `Verdict.false_positive`. It
assumes nothing about the audio or the network, only that the key was drawn at random. So it does not hold for MisoTTS's
published key: that is twenty times the same symbol, which some sounds resemble.

**Is there any mark?** The message of 21 columns is estimated from all columns but one and compared with that one, for
each column in turn. Chance agreement is what folding the audio by a wrong length gives; the largest agreement of ten
wrong lengths is taken as chance, and Chernoff's bound on the binomial tail of the right length is `Verdict.unmarked`.
Columns are not quite independent, so this is a measured statistic, not a proven bound: docs/watermark.md.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import soxr

from misotts.audio_file import AudioFileError, read_audio
from misotts.watermark.read_network import ReadNetwork
from misotts.watermark.silentcipher import SYMBOLS_PER_KEY, symbols_of

PHASES = 3
"""Number of positions of the columns that are tried, a third of a hop apart."""

PIECE_S = 30
"""Longer audio is judged in pieces, so that a mark in a part of it is found and clocks may drift."""

THRESHOLD = 1e-6
"""A probability below this counts as a mark."""

TRACE = 0.01
"""A bound above this shows no trace of the key."""

MESSAGE = SYMBOLS_PER_KEY + 1
WRONG_LENGTHS = [length for length in range(MESSAGE - 5, MESSAGE + 6) if length != MESSAGE]
TILTS = np.geomspace(0.01, 30, 40)
"""Values of t for which the bound is computed. Each bound is valid; the least counts."""

Floats = npt.NDArray[np.floating[Any]]


@dataclass(frozen=True)
class Verdict:
    """The result of detection."""

    false_positive: float
    """Bound on the probability that a key drawn at random seems as present as this one; 1 if there is no trace."""
    unmarked: float
    """Probability that audio without a mark repeats itself this well; 1 if there is no trace."""
    agreement: float
    """Share of the columns that carry the key's symbols in the best reading: SilentCipher's confidence. Chance gives
    about a fifth."""
    seconds: float

    @property
    def key_matches(self) -> bool:
        return self.false_positive < THRESHOLD

    @property
    def marked(self) -> bool:
        """True if there is a mark of this key or another."""
        return self.key_matches or self.unmarked < THRESHOLD

    @property
    def other_key(self) -> bool:
        """True if there is a mark without a trace of this key. A faint mark may be neither this key's nor another's."""
        return self.marked and self.false_positive > TRACE


@dataclass(frozen=True)
class Readings:
    """The network's output for some audio."""

    pieces: Sequence[Sequence[Floats]]
    """Log probabilities [columns, symbols] for each piece of the audio and each phase. Pieces that are silent or
    shorter than a message are left out."""
    seconds: float


class Detector:
    """Detects watermarks."""

    def __init__(self, folder: Path) -> None:
        """Read `folder/silentcipher`.

        Raises:
            SilentCipherError: it cannot be used.
        """
        self._network = ReadNetwork(Path(folder) / "silentcipher")

    def check(self, audio: Floats, rate: int, key: bytes) -> Verdict:
        """Judge float32 [samples] mono at any rate, in Hz."""
        return judge(self.read(audio, rate), key)

    def read(self, audio: Floats, rate: int) -> Readings:
        """Do the part of `check` that takes long and needs no key."""
        config = self._network.config
        resampled = soxr.resample(audio.astype(np.float32), rate, config.SR)
        pieces = []
        for at in range(0, len(resampled), PIECE_S * config.SR):
            piece = resampled[at : at + PIECE_S * config.SR]
            if len(piece) >= MESSAGE * config.HOP_LENGTH and piece.any():
                starts = (n * config.HOP_LENGTH // PHASES for n in range(PHASES))
                pieces.append([self._network.read(piece[start:]) for start in starts])
        return Readings(pieces, seconds=len(audio) / rate)


def judge(readings: Readings, key: bytes) -> Verdict:
    """Decide whether the audio carries a mark, and that of `key`."""
    if not readings.pieces:
        return Verdict(1.0, 1.0, 0.0, readings.seconds)
    symbols = np.array(symbols_of(key))
    pieces = len(readings.pieces)
    bound, agreement = min(_key_evidence(phases, symbols) for phases in readings.pieces)
    unmarked = min(_repetition(columns) for phases in readings.pieces for columns in phases)
    return Verdict(
        false_positive=_probability(bound, tries=pieces),
        unmarked=_probability(unmarked, tries=pieces * PHASES),
        agreement=-agreement,
        seconds=readings.seconds,
    )


def _probability(logarithm: float, tries: int) -> float:
    return float(np.exp(min(logarithm + np.log(tries), 0.0)))


def check_file(file: Path, detector: Detector, key: bytes) -> Verdict:
    """Judge a WAV, FLAC, MP3 or Ogg file. Its channels are mixed.

    Raises:
        AudioFileError: it cannot be read to its end, or contains NaN or infinity.
        OSError: it cannot be opened.
    """
    try:
        audio, rate = read_audio(file)
    except AudioFileError as error:
        raise AudioFileError(f"{file}: {error}") from None
    if not np.isfinite(audio).all():
        raise AudioFileError(f"{file}: contains NaN or infinity")
    return detector.check(audio.mean(axis=1), rate, key)


def _key_evidence(phases: Sequence[Floats], symbols: npt.NDArray[np.int64]) -> tuple[float, float]:
    """Return the logarithm of the bound for the best reading, and minus its agreement."""
    placed = np.stack([np.roll(_fold(phase, MESSAGE), n, axis=0) for phase in phases for n in range(MESSAGE)])
    totals = placed[:, :-1, 1:]  # [readings, 20, 4]: the key's part
    score = totals[:, np.arange(SYMBOLS_PER_KEY), symbols[:-1] - 1].sum(axis=1)
    log_means = _log_mean_exp(TILTS[:, None, None, None] * totals).sum(axis=2)  # [tilts, readings]
    bound = (log_means - TILTS[:, None] * score).min(axis=0)
    likelihood = placed[:, -1, 0] + _log_mean_exp(totals).sum(axis=1)  # with a start symbol and any key
    posterior = np.exp(likelihood - likelihood.max())
    weight = 0.5 * posterior / posterior.sum() + 0.5 / len(posterior)
    bound = bound - np.log(weight)
    best = int(bound.argmin())
    reading = phases[best // MESSAGE]
    wanted = symbols[(np.arange(len(reading)) + best) % MESSAGE]
    return float(bound[best]), -float((reading.argmax(axis=1) == wanted).mean())


def _log_mean_exp(x: Floats) -> Floats:
    """Return log(mean(exp(x))) over the last axis."""
    mean: Floats = np.logaddexp.reduce(x, axis=-1) - np.log(x.shape[-1])
    return mean


def _repetition(reading: Floats) -> float:
    """Return the logarithm of the probability that columns agree this well by chance with those a message away."""
    centred = reading - reading.mean(axis=0)
    agreed, columns = _agreement(centred, MESSAGE)
    chance = max(a / max(n, 1) for a, n in (_agreement(centred, length) for length in WRONG_LENGTHS))
    chance = max(chance, 1 / reading.shape[1])
    share = agreed / max(columns, 1)
    if share <= chance:
        return 0.0
    # Chernoff's bound on the binomial tail: exp(-n * divergence(share, chance)).
    rest = (1 - share) * np.log(max(1 - share, 1e-12) / (1 - chance))
    return -columns * float(share * np.log(share / chance) + rest)


def _agreement(reading: Floats, length: int) -> tuple[int, int]:
    """Return (agreeing, judged): columns that match the vote of the columns a multiple of `length` away."""
    place = np.arange(len(reading)) % length
    others = _fold(reading, length)[place] - reading
    judged = np.bincount(place, minlength=length)[place] > 1
    return int((others.argmax(axis=1) == reading.argmax(axis=1))[judged].sum()), int(judged.sum())


def _fold(reading: Floats, length: int) -> Floats:
    """Sum the columns at the same place of a message of `length` → [length, symbols]."""
    padded = np.pad(reading.astype(np.float64), ((0, -len(reading) % length), (0, 0)))
    folded: Floats = padded.reshape(-1, length, reading.shape[1]).sum(axis=0)
    return folded
