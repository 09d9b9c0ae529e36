"""What the symbols read from a piece of audio say about a mark. docs/watermark.md has the reasoning in words.

A reading is a guess of where the columns and the message begin: an alignment of the STFT's columns (and a speed) times
the 21 columns of the message. Folding the columns by 21 and turning the result gives a reading's table: the summed log
probability of each symbol at each place of the message, first the 20 places of the key, then that of the start symbol.

**Would audio without a mark fit this key so well?** (`key_bound`) Let T_j(v) be the table's entry for symbol v at place
j of the key, and S(k) = sum over j of T_j(k_j). Audio that has nothing to do with the key does not know in which order
the key's symbols come, so it is compared with all other orders of the same symbols. Drawing K's symbols independently
with the key's own shares q_v gives every order the same probability, so, for every t > 0 (Markov's inequality):

    P(S(K) >= S(k) | K has k's symbols)
        <= exp(-t S(k)) * product over j of (sum over v of q_v exp(t T_j(v))) / P(k's symbols)

where the last factor is the multinomial probability that 20 such draws have k's counts. T is centred for each symbol
first, which changes S equally for all orders. A sound that favours a symbol throughout therefore counts for nothing,
however many of the key's symbols are that one. The bound assumes nothing about the audio or the network, only that the
order of the key's symbols has nothing to do with the audio. A key of equal symbols has one order, and its bound is 1.

The readings are tried together (weighted Bonferroni): a reading's bound is divided by its weight, and the weights add
up to 1. Half of the weight is the probability of the reading, given the start symbol and any key; the other half is
shared equally.

**Is there a mark of any key?** Two measured statistics (not proven bounds) for audio that does not itself repeat after
a message's length (`Columns.repetition`):

* `message_bound`: the message is estimated from all columns but one and compared with that one, for each column in
  turn. The largest agreement of ten wrong lengths is taken as chance, and Chernoff's bound on the binomial tail is the
  result. The start symbol must stand where it would: at one place alone.
* `start_bound`: columns that read as the start symbol and resemble it more than the ten columns to each side. Without a
  mark they fall on each of the 21 places alike.

**Is it this key and not another?** (`Doubt.of`) Given that a reading is right, its table gives the probability of each
symbol at each place. Their product over the key's symbols is the key's probability among all 4^20.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from math import comb, log
from typing import Any

import numpy as np
import numpy.typing as npt

from misotts.watermark.key import SYMBOLS_PER_KEY, log_orders

MESSAGE = SYMBOLS_PER_KEY + 1
KEY_SYMBOLS = 4
WRONG_LENGTHS = [length for length in range(MESSAGE - 5, MESSAGE + 6) if length != MESSAGE]
TILTS = np.geomspace(0.03, 10, 20)
"""Values of t for which the bound is computed. Each bound is valid; the least counts."""
UNRELIABLE = 0.1
"""Share of the columns that are taken to carry no symbol. With it `Doubt` states the errors that are made (on 2 s of
marked speech, noisy and coded too: docs/watermark.md); with less it would state too few."""

Floats = npt.NDArray[np.floating[Any]]
Ints = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Tables:
    """The tables of all readings of a piece of audio."""

    tables: Floats
    """[readings, 21, symbols]; the reading n * 21 + r is the alignment n, with the message's first symbol in the
    columns c with (c + r) % 21 == 0."""
    log_weights: Floats
    """[readings]: logarithms of the weights of the readings."""

    @classmethod
    def of(cls, alignments: Sequence[Floats]) -> Tables:
        """Fold log probabilities [columns, symbols] for each alignment of the columns."""
        folded = np.stack([_fold(_softened(columns), MESSAGE) for columns in alignments])
        turned = np.stack([np.roll(folded, r, axis=1) for r in range(MESSAGE)], axis=1)
        tables = turned.reshape(-1, MESSAGE, folded.shape[2])
        likelihood = tables[:, -1, 0] + _log_mean_exp(tables[:, :-1, 1:]).sum(axis=1)
        posterior = np.exp(likelihood - likelihood.max())
        return cls(tables, np.log(0.5 * posterior / posterior.sum() + 0.5 / len(posterior)))

    def likeliest(self, alignment: int) -> int:
        """Return the reading of an alignment that has the greatest weight."""
        first = alignment * MESSAGE
        return first + int(self.log_weights[first : first + MESSAGE].argmax())

    def key_bound(self, symbols: Ints) -> tuple[float, int]:
        """Return the logarithm of the bound for a key, its symbols 1 to 4 [20], and the reading that gives it."""
        totals = self.tables[:, :-1, 1:]
        totals = totals - totals.mean(axis=1, keepdims=True)
        score = totals[:, np.arange(SYMBOLS_PER_KEY), symbols - 1].sum(axis=1)
        counts = np.bincount(symbols - 1, minlength=KEY_SYMBOLS)
        used = counts > 0
        log_shares = np.log(counts[used] / SYMBOLS_PER_KEY)
        bounds = np.zeros(len(score))
        fit = score > 0  # the bound of other readings is above 1
        totals = totals[fit][..., used]
        greatest = totals.max(axis=2, keepdims=True)
        powers = np.exp(TILTS[:, None, None, None] * (totals - greatest)) @ np.exp(log_shares)
        means = np.log(powers).sum(axis=2) + TILTS[:, None] * greatest.sum(axis=(1, 2))  # [tilts, readings]
        probability_of_counts = log_orders(symbols.tolist()) + float(counts[used] @ log_shares)
        bounds[fit] = (means - TILTS[:, None] * score[fit]).min(axis=0) - probability_of_counts
        bounds = np.minimum(bounds, 0.0) - self.log_weights
        best = int(bounds.argmin())
        return min(float(bounds[best]), 0.0), best

    def has_start_symbol(self, reading: int) -> bool:
        """True if the reading's table is likelier with the start symbol at its place alone than with any symbol
        anywhere."""
        table = self.tables[reading]
        with_start = table[-1, 0] + _log_mean_exp(table[:-1, 1:]).sum() - np.log(MESSAGE)
        return bool(with_start > _log_mean_exp(table).sum())


@dataclass(frozen=True)
class Doubt:
    """How sure a table is of a key, if it is the table of a mark."""

    another: float
    """Probability that the mark is of another key than this one."""
    distance: int
    """Number of symbols in which the likeliest key differs from this one."""
    likeliest: float
    """Probability of the likeliest key."""

    @classmethod
    def of(cls, table: Floats, symbols: Ints) -> Doubt:
        """Compare a key's symbols [20], 1 to 4, with the table [21, symbols] of a reading.

        What a symbol has where the key does not have it is the sound's own liking for that symbol, not the message.
        """
        totals = table[:-1, 1:]
        elsewhere = np.arange(KEY_SYMBOLS) != (symbols - 1)[:, None]
        count = elsewhere.sum(axis=0)
        liking = (totals * elsewhere).sum(axis=0) / np.maximum(count, 1)
        totals = totals - np.where(count > 0, liking, liking[count > 0].mean())
        shares = totals - np.logaddexp.reduce(totals, axis=1, keepdims=True)  # log probabilities
        best = shares.argmax(axis=1)
        this = float(shares[np.arange(SYMBOLS_PER_KEY), symbols - 1].sum())
        return cls(-float(np.expm1(this)), int((best != symbols - 1).sum()), float(np.exp(shares.max(axis=1).sum())))


def message_bound(columns: Floats) -> float:
    """Return the logarithm of the probability that columns [columns, symbols] agree this well by chance with those a
    multiple of a message away."""
    centred = columns - columns.mean(axis=0)
    agreed, judged = _agreement(centred, MESSAGE)
    chance = max(a / max(n, 1) for a, n in (_agreement(centred, length) for length in WRONG_LENGTHS))
    chance = max(chance, 1 / columns.shape[1])
    share = agreed / max(judged, 1)
    if share <= chance:
        return 0.0
    # Chernoff's bound on the binomial tail: exp(-n * divergence(share, chance)).
    rest = (1 - share) * np.log(max(1 - share, 1e-12) / (1 - chance)) if share < 1 else 0.0
    return -judged * float(share * np.log(share / chance) + rest)


def start_bound(columns: Floats) -> float:
    """Return the logarithm of the probability that as many columns that stand out as start symbols, and read as such,
    fall on one place of the message by chance."""
    half = MESSAGE // 2
    if len(columns) < MESSAGE:
        return 0.0
    odds = columns[:, 0] - np.logaddexp.reduce(columns[:, 1:], axis=1)
    around = np.lib.stride_tricks.sliding_window_view(odds, MESSAGE)
    places = (np.flatnonzero((around.argmax(axis=1) == half) & (around[:, half] > 0)) + half) % MESSAGE
    if not len(places):
        return 0.0
    most = int(np.bincount(places).max())
    return min(_log_tail(most, len(places), MESSAGE) + log(MESSAGE), 0.0)


@cache
def _log_tail(least: int, tries: int, outcomes: int) -> float:
    """Return the logarithm of the probability of at least so many hits of one in `outcomes`."""
    p = 1 / outcomes
    return log(sum(comb(tries, n) * p**n * (1 - p) ** (tries - n) for n in range(least, tries + 1)))


def _softened(columns: Floats) -> Floats:
    """Limit the say of a column in a sum: some columns carry no symbol, whatever the network reads."""
    softened: Floats = np.log((1 - UNRELIABLE) * np.exp(columns.astype(np.float64)) + UNRELIABLE / columns.shape[1])
    return softened


def _agreement(columns: Floats, length: int) -> tuple[int, int]:
    """Return (agreeing, judged): columns that match the vote of the columns a multiple of `length` away."""
    place = np.arange(len(columns)) % length
    others = _fold(columns, length)[place] - columns
    judged = np.bincount(place, minlength=length)[place] > 1
    return int((others.argmax(axis=1) == columns.argmax(axis=1))[judged].sum()), int(judged.sum())


def _fold(columns: Floats, length: int) -> Floats:
    """Sum the columns at the same place of a message of `length` → [length, symbols]."""
    padded = np.pad(columns.astype(np.float64), ((0, -len(columns) % length), (0, 0)))
    folded: Floats = padded.reshape(-1, length, columns.shape[1]).sum(axis=0)
    return folded


def _log_mean_exp(x: Floats) -> Floats:
    """Return log(mean(exp(x))) over the last axis."""
    mean: Floats = np.logaddexp.reduce(x, axis=-1) - np.log(x.shape[-1])
    return mean
