"""Sentences of the training: WordNet's example sentences and definitions, everyday sentences from a grammar, numbers.

WordNet comes as the Debian package `wordnet-base`; its licence asks for the notice in LICENSES.md.
"""

from __future__ import annotations

import random
import re
import subprocess
from collections.abc import Iterator
from functools import cache
from pathlib import Path

from demo.voice import everyday, numbers
from demo.voice.numbers import Pair

HELD_OUT = Path(__file__).with_name("sentences.txt")
"""Sentences to judge with, one a line, behind the seconds of the teacher's clip of it. No sentence of the training has
five words in a row with one of them."""
RUN = 5
SHORTEST, LONGEST = 14, 84
"""Characters of a training sentence."""
GOOD = re.compile(r"[A-Za-z][A-Za-z ,'-]*[A-Za-z]")
QUESTIONS = (
    "who what when where why how which whose is are was were do does did can could will would shall should may have has"
)


def held_out() -> dict[str, float]:
    """Return the sentences to judge with, and the seconds of the teacher's clips."""
    lines = (line.split("\t") for line in HELD_OUT.read_text(encoding="utf-8").splitlines())
    return {sentence: float(seconds) for seconds, sentence in lines}


def words(text: str) -> list[str]:
    """The words of a text as a recogniser writes them."""
    return re.sub(r"[^a-z' ]", " ", text.lower().replace("-", " ")).split()


@cache
def _forbidden() -> frozenset[tuple[str, ...]]:
    """Every run of five words of the sentences to judge with, and the shorter sentences whole."""
    runs = set()
    for sentence in [*held_out(), *numbers.JUDGED.values()]:
        said = tuple(words(sentence))
        runs |= {said[at : at + RUN] for at in range(max(1, len(said) - RUN + 1))}
    return frozenset(runs)


def is_held_out(text: str) -> bool:
    said = tuple(words(text))
    if said in _forbidden():
        return True
    return any(said[at : at + RUN] in _forbidden() for at in range(len(said) - RUN + 1))


def fetch_wordnet(folder: Path) -> Path:
    """Unpack Debian's `wordnet-base` under `folder` → the folder of its data files. Nothing is installed."""
    data = folder / "usr/share/wordnet"
    if not data.is_dir():
        folder.mkdir(parents=True, exist_ok=True)
        subprocess.run(["apt-get", "download", "wordnet-base"], cwd=folder, check=True)
        (package,) = folder.glob("wordnet-base*.deb")
        subprocess.run(["dpkg", "-x", package, folder], check=True)
    return data


def wordnet(folder: Path) -> tuple[list[str], list[str]]:
    """Example sentences and definitions, each once, in the order of the files."""
    examples: dict[str, None] = {}
    definitions: dict[str, None] = {}
    for part in ("verb", "noun", "adj", "adv"):
        for line in (folder / f"data.{part}").read_text(encoding="latin-1").splitlines():
            gloss = line.partition(" | ")[2]
            examples |= dict.fromkeys(_clean(text) for text in re.findall(r'"([^"]*)"', gloss))
            plain = re.sub(r"\([^)]*\)", "", re.sub(r'"[^"]*"', "", gloss))
            definitions |= dict.fromkeys(_clean(text) for text in plain.split(";"))
    return [text for text in examples if _usable(text)], [text for text in definitions if _usable(text)]


def _clean(text: str) -> str:
    return re.sub(r"\s+", " ", text.replace("`", "'")).strip(" .!?;:,-'")


def _usable(text: str) -> bool:
    return bool(GOOD.fullmatch(text)) and SHORTEST <= len(text) <= LONGEST and not is_held_out(text)


def written(text: str, rng: random.Random) -> str:
    """With a capital and a mark at its end, mostly."""
    if rng.random() < 0.85:
        text = text[0].upper() + text[1:]
    if rng.random() < 0.1:
        return text
    if text.split()[0].lower() in QUESTIONS.split():
        return text + "?"
    return text + ("!" if rng.random() < 0.04 else ".")


def training_text(wordnet_folder: Path, seed: int = 0) -> Iterator[Pair]:
    """Sentences as written and as spoken, without end, in an order that the seed decides: 42 % WordNet's examples,
    15 % definitions (until they have all been said), 31 % everyday sentences, 12 % with numbers."""
    rng = random.Random(seed)
    examples, definitions = wordnet(wordnet_folder)
    nouns = everyday.common_nouns(wordnet_folder)
    rng.shuffle(examples)
    rng.shuffle(definitions)
    said: set[str] = set()
    while True:
        kind = rng.random()
        if kind < 0.42 and examples:
            pair = (written(examples.pop(), rng),) * 2
        elif kind < 0.57 and definitions:
            pair = (written(definitions.pop(), rng),) * 2
        elif kind < 0.88:
            pair = (written(everyday.sentence(rng, nouns), rng),) * 2
        else:
            pair = numbers.sentence(rng, nouns)
        if pair[0] not in said and len(pair[1]) <= LONGEST and not is_held_out(pair[1]):
            said.add(pair[0])
            yield pair


def number_text(wordnet_folder: Path, seed: int = 1) -> Iterator[Pair]:
    """Yield sentences with numbers and abbreviations, without end."""
    rng, nouns, said = random.Random(seed), everyday.common_nouns(wordnet_folder), set[str]()
    while True:
        pair = numbers.sentence(rng, nouns)
        if pair[0] not in said and len(pair[1]) <= LONGEST and not is_held_out(pair[1]):
            said.add(pair[0])
            yield pair
