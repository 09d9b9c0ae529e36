"""Text that comes piece by piece, and estimated times of words: properties over random texts."""

import random
import time

from misotts_gateway.text.incremental import SentenceBuffer, whole_text
from misotts_gateway.text.sentences import is_speakable, width
from misotts_gateway.text.times import EstimatedTimes, Timed, characters, words
from tests.support.ws import NUMBERS

LETTERS = 'abc. !?\n。お,;—( )1 2é🙂\u200b"A B C D e f g h i j k l m n o p 漢'


def random_text(chance: random.Random, most: int = 900) -> str:
    return "".join(chance.choice(LETTERS) for _ in range(chance.randint(0, most)))


def test_utterances_joined_are_what_was_sent() -> None:
    chance = random.Random(1)
    for number in range(500):
        text, limit = random_text(chance), (40, 300)[number % 2]
        buffer, given, position = SentenceBuffer(limit), list[str](), 0
        while position < len(text):
            size = chance.randint(1, chance.choice([3, 30, 900]))
            given += buffer.add(text[position : position + size])
            position += size
            if chance.random() < 0.05:
                given += buffer.flush()
        given += buffer.flush()
        assert not buffer.is_speakable
        whole = "".join(given)
        assert text.startswith(whole)
        assert not is_speakable(text[len(whole) :])
        assert all(map(is_speakable, given))
        assert max(map(width, given), default=0) <= limit + 60  # marks at a seam stay with their word
        complete = whole_text(text, limit)
        assert text.startswith("".join(complete))
        assert not is_speakable(text[len("".join(complete)) :])


def test_one_character_of_look_ahead() -> None:
    buffer = SentenceBuffer()
    given = [(word, ready) for word in NUMBERS for ready in buffer.add(word)]
    assert [word for word, _ in given] == ["Was ", "Yes."]
    assert [ready for _, ready in given] + buffer.flush() == ["".join(NUMBERS[:19]), "".join(NUMBERS[19:23]), "Yes."]
    # A number alone is no sentence, and spaces do not begin one.
    assert SentenceBuffer().add("1. First. 2. Second. \n") == ["1. First. "]


def test_no_text_takes_long() -> None:
    began = time.thread_time()
    for text in (
        "漢" * 20_000,
        "A" * 100 + "\n\n" * 10_000,
        "、" * 20_000,
        "a. " * 10_000,
        " " * 50_000,
        "🙂" * 20_000,
    ):
        whole_text(text)
    assert time.thread_time() - began < 5


def test_times_are_monotone_and_in_time() -> None:
    chance = random.Random(2)
    for _ in range(300):
        text = random_text(chance, 200) + "a"
        spans = words if chance.random() < 0.5 else characters
        estimate = EstimatedTimes(text, spans(text), chance.choice([0.03, 0.065, 0.15]))
        audio_s, given = 0.0, list[Timed]()
        chunks = [chance.choice([0.08, 0.16, 0.5, 2.0]) for _ in range(chance.randint(1, 30))]
        for index, chunk_s in enumerate(chunks):
            before, audio_s = audio_s, audio_s + chunk_s
            for each in estimate.until(audio_s, last=index == len(chunks) - 1):
                assert before - 1e-9 <= each.start <= each.end <= audio_s + 1e-9
                given.append(each)
        assert [each.start for each in given] == sorted(each.start for each in given)
        assert "".join(each.text for each in given) == (text if spans is characters else "".join(text.split()))
