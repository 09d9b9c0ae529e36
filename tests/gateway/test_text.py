"""Texts become utterances and silences."""

import random
import re
import time
from pathlib import Path

import pytest

from misotts_gateway.text.lexicon import Lexicon, read_lexicon
from misotts_gateway.text.normalize import load_normalizer
from misotts_gateway.text.plan import TextSettings, plan
from misotts_gateway.text.sentences import UTTERANCE_WIDTH, is_speakable, split_text, width
from misotts_gateway.text.ssml import MAX_BREAK_MS, Silence, SsmlError, read_ssml

SENTENCES = [
    "Dr. Smith paid $3.50 at 9 a.m. for v1.0.2 from https://example.com/a.b?c=1.5 (e.g. J. R. Tolkien).",
    "Was it 22,1 °C?",
    'She said "no." and left.',
    "Yes.",
]


def test_short_texts_are_one_utterance() -> None:
    assert split_text("Hello there. How are you?") == ["Hello there. How are you?"]


def test_sentences_stay_whole() -> None:
    assert split_text(" ".join(SENTENCES), limit=100) == [SENTENCES[0], " ".join(SENTENCES[1:])]
    assert split_text("こんにちは。お元気ですか。", limit=25) == ["こんにちは。", "お元気ですか。"]


def test_nothing_is_lost_and_no_utterance_is_too_wide() -> None:
    chance = random.Random(3)
    alphabet = [
        "word",
        "Word.",
        "a,",
        "why?",
        "e.g.",
        "3.14",
        "Mr.",
        "お元気ですか。",
        "x" * 400,
        "\n\n",
        "…",
        "(so)",
        "🙂",
    ]
    for _ in range(300):
        text = " ".join(chance.choice(alphabet) for _ in range(chance.randint(1, 300)))
        utterances = split_text(text)
        assert all(is_speakable(each) and width(each) <= UTTERANCE_WIDTH for each in utterances)
        spoken = re.sub(r"[^\w]", "", text)
        assert re.sub(r"[^\w]", "", "".join(utterances)) == spoken


def test_long_texts_become_few_utterances() -> None:
    utterances = split_text("This is a sentence of some length, and it ends. " * 200)
    assert len(utterances) <= 1.25 * 200 * 48 / UTTERANCE_WIDTH


@pytest.mark.parametrize(
    "unit", ["a", "a ", "。", "お元気ですか。", " ", "\n", "x\n\n", "「あ。」", '"Hi." ', "1.", "é. ", "\u200b"]
)
def test_no_text_takes_long(unit: str) -> None:
    started = time.process_time()
    split_text((unit * 100_000)[:100_000])
    assert time.process_time() - started < 1


@pytest.mark.parametrize("text", ["", " ", "\n", "...", "🙂", "\u200b", "?!", "—"])
def test_text_without_a_letter_is_nothing_to_speak(text: str) -> None:
    assert split_text(text) == []
    assert not is_speakable(text)


def test_ssml() -> None:
    text = """<speak version="1.1" xmlns="http://www.w3.org/2001/10/synthesis">
        Room <say-as interpret-as="characters">B2</say-as>.<break time="500ms"/>
        Call <say-as interpret-as="telephone">+1 555-0199</say-as>,
        <say-as interpret-as="digits">42</say-as> or <say-as interpret-as="unknown">so</say-as>.<break strength="weak"/>
        <sub alias="World Wide Web">WWW</sub> &amp; <prosody rate="slow">more <emphasis>of</emphasis> it</prosody>
        <break time="1.5s"/><p>One</p><s>Two</s></speak>"""
    parts = [part if isinstance(part, Silence) else " ".join(part.split()) for part in read_ssml(text)]
    assert parts == [
        "Room B two.",
        Silence(500),
        "Call plus one, five five five, zero one nine nine, four two or so.",
        Silence(250),
        "World Wide Web & more of it",
        Silence(1500),
        "One. Two.",
    ]


@pytest.mark.parametrize(
    "text",
    [
        "plain",
        "<speak>open",
        "<speak>a & b</speak>",
        "<speak>&nbsp;</speak>",
        "<p>no root</p>",
        "<speak/><speak/>",
        '<!DOCTYPE speak [<!ENTITY a "aaaa"><!ENTITY b "&a;&a;">]><speak>&b;</speak>',
        '<!DOCTYPE speak SYSTEM "file:///etc/passwd"><speak>a</speak>',
        '<speak>a<break time="fast"/></speak>',
        '<speak>a<break time="-1s"/></speak>',
        f'<speak>a<break time="{MAX_BREAK_MS + 1}ms"/></speak>',
        "<speak>a" + '<break time="10s"/>' * 11 + "</speak>",
        "<speak>\x00</speak>",
    ],
)
def test_ssml_that_is_refused(text: str) -> None:
    with pytest.raises(SsmlError, match=r"^must "):
        read_ssml(text)


def test_deep_and_long_ssml_is_read() -> None:
    assert read_ssml("<speak>" + "<p>" * 10_000 + "a" + "</p>" * 10_000 + "</speak>") == ["a.\n\n"]


def test_lexicon(tmp_path: Path) -> None:
    path = tmp_path / "words.json"
    path.write_text('{"words": {"miso": "mee so", "US": "U S", "a.b": "x"}, "voices": {"anna": {"miso": "my so"}}}')
    lexicon = read_lexicon(path)
    assert lexicon.apply("Miso, MISO; misotts: tell us of the US. a.b azb", None) == (
        "mee so, mee so; misotts: tell us of the U S. x azb"
    )
    assert lexicon.apply("miso US", "anna") == "my so U S"
    assert lexicon.apply("miso", "unknown") == "mee so"


@pytest.mark.parametrize(
    "content", ["", "[]", "{", '{"word": {}}', '{"words": {"": "a"}}', '{"voices": {"A": {}}}', "[" * 9999]
)
def test_a_broken_lexicon_is_named(tmp_path: Path, content: str) -> None:
    path = tmp_path / "words.json"
    path.write_text(content)
    with pytest.raises(ValueError, match=r"words\.json"):
        read_lexicon(path)


def test_parts_of_a_turn() -> None:
    settings = TextSettings(lexicon=Lexicon({"miso": "mee so"}, {}), normalizer=load_normalizer("en"))
    text = '<speak>Miso has 3. <break time="80ms"/><sub alias="miso 4">x</sub></speak>'
    assert plan(text, settings, voice=None, ssml=True) == ["mee so has 3.", Silence(80), "miso 4"]
    assert plan(text, settings, voice=None, ssml=True, normalize=True) == [
        "mee so has three.",
        Silence(80),
        "miso four",
    ]


READINGS = [
    ("I have 3 cats.", "i have three cats"),
    ("There are 12,345 people.", "there are twelve thousand three hundred and forty five people"),
    ("It sold 1,000,000 copies.", "it sold one million copies"),
    ("He is 101 years old.", "he is one hundred and one years old"),
    ("Pi is 3.14.", "pi is three point one four"),
    ("It fell to -5 degrees.", "it fell to negative five degrees"),
    ("The 21st century.", "the twenty first century"),
    ("On the 2nd floor.", "on the second floor"),
    ("Half is 1/2.", "half is one half"),
    ("Add 3/4 cup.", "add three quarters cup"),
    ("In 1999 it began.", "in nineteen ninety nine it began"),
    ("In 2026 it ends.", "in twenty twenty six it ends"),
    ("In 2005 we met.", "in two thousand five we met"),
    ("On January 5, 2026 we met.", "on the fifth of january twenty twenty six we met"),
    ("Due 2024-05-06.", "due the sixth of may twenty twenty four"),
    ("Come at 9:30.", "come at nine thirty"),
    ("Come at 5 pm.", "come at five pm"),
    ("Come at 14:05.", "come at fourteen o five"),
    ("It costs $5.", "it costs five dollars"),
    ("It costs $1.", "it costs one dollar"),
    ("It costs €20.", "it costs twenty euros"),
    ("It cost $2 million.", "it cost two million dollars"),
    ("It is 5 km away.", "it is five kilometers away"),
    ("It is 22.1 °C.", "it is twenty two point one degrees celsius"),
    ("It weighs 3 kg.", "it weighs three kilograms"),
    ("At 60 mph.", "at sixty miles per hour"),
    ("A 16 GB card.", "a sixteen gigabytes card"),
    ("Up 50%.", "up fifty percent"),
    ("Dr. Smith is in.", "doctor smith is in"),
    ("Mr. Jones and Mrs. Lee.", "mister jones and misses lee"),
    ("He lives at 123 Main St.", "he lives at one twenty three main street"),
    ("Call 555-123-4567.", "call five five five one two three four five six seven"),
    ("See example.com today.", "see example dot com today"),
    ("Mail bob@example.com now.", "mail bob at example dot com now"),
    # The library's faults, kept here so that a release which mends them is noticed.
    ("There are 1,234 people.", "there are thousand two hundred and thirty four people"),
    ("The 1980s were loud.", "the one thousand nine hundred and eighty seconds were loud"),
    ("On 5 May 2024 we met.", "on five may twenty twenty four we met"),
    ("It costs $3.50.", "it costs three point five dollars"),
    ("It costs £1,234.56.", "it costs thousand two hundred and thirty four point five six pounds"),
    ("He ran 100 m.", "he ran one hundred minutes"),
]


def test_normalisation_of_40_cases() -> None:
    normalize = load_normalizer("en")
    assert len(READINGS) == 40
    readings = {text: re.sub(r"[^a-z]+", " ", normalize(text).lower()).strip() for text, _ in READINGS}
    assert readings == dict(READINGS)


@pytest.mark.parametrize(
    "text", ["", "  two  spaces 2 ", "🙂 2", "a\n2", "\x00 2", "1" * 4_000, "こんにちは 3", "$" * 500]
)
def test_the_normaliser_takes_any_text(text: str) -> None:
    assert isinstance(load_normalizer("en")(text), str)


def test_a_language_without_grammars_is_refused() -> None:
    with pytest.raises(ValueError, match="tlh"):
        load_normalizer("tlh")
