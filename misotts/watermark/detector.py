"""Detects whether audio carries the watermark, and whether the mark is that of a given key.

Any audio will do: any rate, any start, a mark that begins or ends in the middle, and, with `search`, another speed.
`misotts/watermark/evidence.py` has the statistics.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from enum import Enum
from pathlib import Path

import numpy as np
import soxr

from misotts.audio_file import AudioFileError, read_audio
from misotts.watermark.evidence import MESSAGE, Doubt, Floats, Ints, Tables, message_bound, start_bound
from misotts.watermark.key import symbols_of
from misotts.watermark.read_network import Columns, ReadNetwork

PHASES = 3
"""Number of positions of the columns that are tried, a third of a hop apart."""

PIECE_S = 30
"""Longer audio is judged in pieces, so that a mark in a part of it is found and clocks may drift."""

WINDOW = 16 * MESSAGE
"""Number of columns of the parts of a piece that are judged too."""

THRESHOLD = 1e-6
"""Audio is marked if audio without a mark would seem so with less than this probability."""

LEAST = 1e-12
"""Smaller probabilities are stated as this one: the assumptions behind them are not that certain."""

LIKELIER = 0.25
"""A mark is this key's if it is another's with less than this probability: if this key is three times as likely as all
others together."""

SURE = 1e-3
"""A mark is another key's if it is this key's with less than this probability, and if the likeliest key is itself clear
or far from this one."""

CLEAR, FAR = 0.5, 5
"""Probability of a likeliest key that is clear; the number of symbols in which one that is far differs at least."""

REPEATING = 0.35
"""`Columns.repetition` above this is that of sound that itself repeats after a message's length."""

ENOUGH_MESSAGES = 5
"""Audio that is shorter than this many messages may carry a mark that cannot be found."""

AUDIBLE = 1e-3
"""RMS (-60 dBFS) of a block of 20 ms below which its mark may be lost in the rounding of a 16-bit file."""

AUDIBLE_BLOCK_S = 0.02

ALIGNMENTS = 9
"""Number of alignments, those that repeat best after a message's length, in which keys are looked for."""

RATES = (8_000, 16_000, 22_050, 24_000, 32_000, 44_100, 48_000)
SPEED_STEP = 0.01
"""Distance of the speeds at which the network reads. Between them only the columns' spacing is searched."""


class Finding(str, Enum):
    """What holds of the audio."""

    THIS_KEY = "this key"
    ANOTHER_KEY = "another key"
    NO_MARK = "no mark"
    CANNOT_SAY = "cannot say"


@dataclass(frozen=True)
class Verdict:
    """The result of detection."""

    finding: Finding
    reason: str
    """Why it cannot be said; empty otherwise."""
    unmarked: float
    """Probability that audio without a mark seems as marked as this, at least `LEAST`; 1 if there is no trace."""
    another_key: float
    """Probability that the mark is of another key, if there is a mark."""
    distance: int | None
    """Number of the key's 20 symbols in which the likeliest key differs from this one; None if that is not certain."""
    agreement: float
    """Share of the columns that carry the key's symbols in the best reading: SilentCipher's confidence. Chance gives
    about a fifth."""
    speed: float
    """Speed at which the audio was read: 1.03 if it plays 3 % faster than it was marked."""
    seconds: float

    @property
    def marked(self) -> bool:
        """True if there is a mark, of this key or another."""
        return self.unmarked < THRESHOLD

    @property
    def key_matches(self) -> bool:
        return self.finding is Finding.THIS_KEY


@dataclass(frozen=True)
class Reading:
    """What the network reads in a piece of audio at a speed."""

    speed: float
    phases: Sequence[Columns]

    def part(self, place: float) -> Reading:
        """Return `WINDOW` columns: the first ones at place 0, the last ones at place 1."""
        first = int(place * (min(len(phase.symbols) for phase in self.phases) - WINDOW))
        return Reading(
            self.speed, [replace(each, symbols=each.symbols[first : first + WINDOW]) for each in self.phases]
        )


@dataclass(frozen=True)
class Alignment:
    """The columns of a piece at a speed and a phase."""

    speed: float
    columns: Floats
    repeats: bool
    """True if the sound itself repeats after a message's length."""


@dataclass(frozen=True)
class Readings:
    """The network's output for some audio."""

    pieces: Sequence[Sequence[Reading]]
    """For each piece of the audio the readings at each speed. Pieces that are silent or shorter than a message are left
    out."""
    seconds: float
    audible_s: float
    """Duration of what is loud enough to keep a mark."""
    message_s: float


class Detector:
    """Detects watermarks."""

    def __init__(self, folder: Path) -> None:
        """Read `folder/silentcipher`.

        Raises:
            SilentCipherError: it cannot be used.
        """
        self._network = ReadNetwork(Path(folder) / "silentcipher")

    def check(self, audio: Floats, rate: int, key: bytes, search: bool = False) -> Verdict:
        """Judge float32 [samples] mono at any rate, in Hz; see `read`."""
        return judge(self.read(audio, rate, search), key)

    def read(self, audio: Floats, rate: int, search: bool = False) -> Readings:
        """Do the part of `check` that takes long and needs no key.

        `search` also reads speeds from -5 % to +5 %, and those that result if another usual rate was
        taken for the audio's.
        """
        config = self._network.config
        speeds = _search_speeds() if search else [1.0]
        pieces: dict[int, list[Reading]] = {}
        for speed in speeds:
            resampled = soxr.resample(audio.astype(np.float32), rate, config.SR * speed)
            length = round(PIECE_S * config.SR * speed)
            for number, at in enumerate(range(0, len(resampled), length)):
                piece = resampled[at : at + length]
                if len(piece) >= (MESSAGE + 2) * config.HOP_LENGTH and piece.any():
                    starts = (n * config.HOP_LENGTH // PHASES for n in range(PHASES))
                    phases = [self._network.read(piece[start:]) for start in starts]
                    pieces.setdefault(number, []).append(Reading(speed, phases))
        message_s = MESSAGE * config.HOP_LENGTH / config.SR
        return Readings(list(pieces.values()), len(audio) / rate, _audible_s(audio, rate), message_s)


def check_file(file: Path, detector: Detector, key: bytes, search: bool = False) -> Verdict:
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
    return detector.check(audio.mean(axis=1), rate, key, search)


def judge(readings: Readings, key: bytes) -> Verdict:
    """Decide whether the audio carries a mark, and that of `key`."""
    return judge_each(readings, [key])[0]


def judge_each(readings: Readings, keys: Sequence[bytes]) -> list[Verdict]:
    """Judge as `judge` does for each of some keys; what needs no key is computed once."""
    windows = [window for piece in readings.pieces for window in _windows(piece)]
    pieces = [_Piece(window, len(windows)) for window in windows]
    return [_verdict(readings, [piece.evidence(np.array(symbols_of(key)[:-1])) for piece in pieces]) for key in keys]


def _verdict(readings: Readings, pieces: Sequence[Evidence]) -> Verdict:
    best = min(pieces, key=Evidence.order, default=NOTHING)
    finding, reason = best.finding, ""
    if finding is Finding.CANNOT_SAY:
        reason = "there is a mark, too faint to tell this key from those that differ in a few symbols"
    elif finding is Finding.NO_MARK:
        reason = _excuse(readings, any(piece.repeats for piece in pieces))
        finding = Finding.CANNOT_SAY if reason else finding
    return Verdict(
        finding=finding,
        reason=reason,
        unmarked=best.unmarked,
        another_key=best.doubt.another,
        distance=best.doubt.distance if best.marked and best.doubt.likeliest > 1 - SURE else None,
        agreement=best.agreement,
        speed=best.speed,
        seconds=readings.seconds,
    )


@dataclass(frozen=True)
class Evidence:
    """What a piece of audio shows, with the figures of `Verdict`."""

    unmarked: float
    repeats: bool
    """True if the piece would count as marked if it did not itself repeat after a message's length."""
    doubt: Doubt
    agreement: float
    speed: float

    @property
    def marked(self) -> bool:
        return self.unmarked < THRESHOLD

    @property
    def finding(self) -> Finding:
        if not self.marked:
            return Finding.NO_MARK
        if self.doubt.another < LIKELIER:
            return Finding.THIS_KEY
        clear = self.doubt.likeliest > CLEAR or self.doubt.distance >= FAR
        return Finding.ANOTHER_KEY if clear and 1 - self.doubt.another < SURE else Finding.CANNOT_SAY

    def order(self) -> tuple[bool, bool, bool, float, float]:
        """Order the pieces of audio, of which the least decides: one that is marked, and sure of the key, and of this
        one."""
        unsure = min(self.doubt.another, 1 - self.doubt.another)
        return not self.marked, unsure > SURE, self.finding is not Finding.THIS_KEY, unsure, self.unmarked


NOTHING = Evidence(1.0, False, Doubt(1.0, 0, 0.0), 0.0, 1.0)


def _windows(piece: Sequence[Reading]) -> Iterator[Sequence[Reading]]:
    """Yield a piece and, if it is long, shorter parts of it, in which a mark that covers a part is clearer."""
    yield piece
    columns = min(len(phase.symbols) for reading in piece for phase in reading.phases)
    if columns > WINDOW:
        for part in np.linspace(0, 1, int(np.ceil(2 * columns / WINDOW)) - 1).tolist():
            yield [reading.part(part) for reading in piece]


class _Piece:
    """One of a number of pieces, with what needs no key."""

    def __init__(self, readings: Sequence[Reading], pieces: int) -> None:
        tried = [each for reading in readings for each in _alignments(reading, search=len(readings) > 1)]
        bounds = [(message_bound(each.columns), start_bound(each.columns)) for each in tried]
        # A choice that knows no key costs the key's bound nothing.
        chosen = sorted(range(len(tried)), key=lambda n: min(bounds[n]))[:ALIGNMENTS]
        self._alignments = [tried[n] for n in chosen]
        self._tables = Tables.of([alignment.columns for alignment in self._alignments])
        self._repeats = any(alignment.repeats for alignment in self._alignments)
        self._log_tries = float(np.log(2 * pieces))
        found = [self._any_key(number, *bounds[n]) for number, n in enumerate(chosen)]
        least, self._any_reading = min(found)
        self._any_bound = least + float(np.log(2 * len(tried)))

    def _any_key(self, number: int, message: float, start: float) -> tuple[float, int]:
        """Return the logarithm of the bound for a mark of any key in an alignment, and its likeliest reading."""
        reading = self._tables.likeliest(number)
        return min(message if self._tables.has_start_symbol(reading) else 0.0, start), reading

    def evidence(self, symbols: Ints) -> Evidence:
        """Judge for a key's symbols [20], 1 to 4."""
        key, reading = self._tables.key_bound(symbols)
        repeated = self._any_bound + self._log_tries < np.log(THRESHOLD)
        # The reading that fits this key best would favour it over its neighbours where another is likelier.
        if key > np.log(THRESHOLD) or self._tables.log_weights[reading] < self._tables.log_weights[self._any_reading]:
            reading = self._any_reading
        bound = key if self._repeats else min(key, self._any_bound)
        best = self._alignments[reading // MESSAGE]
        wanted = np.append(symbols, 0)[(np.arange(len(best.columns)) + reading) % MESSAGE]
        return Evidence(
            unmarked=_probability(bound + self._log_tries),
            repeats=self._repeats and repeated,
            doubt=Doubt.of(self._tables.tables[reading], symbols),
            agreement=float((best.columns.argmax(axis=1) == wanted).mean()),
            speed=best.speed,
        )


def _alignments(reading: Reading, search: bool) -> Iterator[Alignment]:
    """Yield the alignments of the columns at each phase, in a search also with a little more or less between them."""
    phases = [phase.symbols for phase in reading.phases]
    repeats = any(phase.repetition > REPEATING for phase in reading.phases)
    if not search:
        yield from (Alignment(reading.speed, columns, repeats) for columns in phases)
        return
    count = min(len(columns) for columns in phases)
    dense = np.stack([columns[:count] for columns in phases], axis=1).reshape(count * PHASES, -1)
    # At these steps the last column is misplaced by at most a quarter of a hop.
    steps = int(np.ceil(count * SPEED_STEP))
    for faster in np.arange(-steps, steps + 1) * SPEED_STEP / (2 * steps):
        for phase in range(PHASES):
            at = np.round(phase + PHASES * np.arange(count) / (1 + faster)).astype(np.int64)
            yield Alignment(reading.speed * (1 + float(faster)), dense[at[at < len(dense)]], repeats)


def _probability(logarithm: float) -> float:
    return float(np.clip(np.exp(logarithm), LEAST, 1.0))


def _excuse(readings: Readings, repeats: bool) -> str:
    """Return why a mark may be there although none is found; empty if there is no such reason."""
    least = ENOUGH_MESSAGES * readings.message_s
    if readings.seconds < least:
        return f"the audio is too short: {readings.seconds:.1f} s, {least:.1f} s are needed"
    if readings.audible_s < least:
        return f"the audio is too quiet: {readings.audible_s:.1f} s of it are above -60 dBFS, {least:.1f} s are needed"
    if repeats:
        return f"the sound repeats itself every {readings.message_s:.2f} s, as a mark would"
    return ""


def _audible_s(audio: Floats, rate: int) -> float:
    """Return how many seconds of audio are louder than `AUDIBLE`."""
    block = max(round(AUDIBLE_BLOCK_S * rate), 1)
    blocks = audio[: len(audio) // block * block].reshape(-1, block)
    return float((np.mean(np.square(blocks, dtype=np.float64), axis=1) > AUDIBLE**2).sum()) * block / rate


def _search_speeds() -> list[float]:
    """Return the speeds at which a search reads: -5 % to +5 %, and those of mistaken rates up to an octave."""
    near = [1 + percent / 100 for percent in range(-5, 6)]
    ratios = {round(a / b, 4) for a in RATES for b in RATES if 0.5 <= a / b <= 2}
    return near + sorted(ratio for ratio in ratios if abs(ratio - 1) > 0.05)
