"""Numbers and abbreviations: how they are written, and the words that a speaker says for them."""

from __future__ import annotations

import random

ONES_TEXT = (
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen "
    "eighteen nineteen"
)
TENS_TEXT = "_ _ twenty thirty forty fifty sixty seventy eighty ninety"
MONTHS_TEXT = "January February March April May June July August September October November December"
NAMES_TEXT = (
    "Smith Jones Brown Miller Taylor Wilson Moore Clark Lewis Walker Young King Hill Green Baker Adams Nelson Carter "
    "Parker Collins Stewart Morris Cook Reed Bell Cooper Ward Gray Price Bennett Wood Ross Long Foster"
)
ONES, TENS, MONTHS, NAMES = (text.split() for text in (ONES_TEXT, TENS_TEXT, MONTHS_TEXT, NAMES_TEXT))
ORDINALS = {"one": "first", "two": "second", "three": "third", "five": "fifth", "eight": "eighth", "nine": "ninth"}
ORDINALS |= {"twelve": "twelfth"}
TITLES = {"Mr.": "Mister", "Mrs.": "Missis", "Dr.": "Doctor", "Ms.": "Miz", "Prof.": "Professor", "Capt.": "Captain"}
UNITS = {
    "km": "kilometers", "kg": "kilograms", "cm": "centimeters", "mph": "miles an hour", "lbs": "pounds", "ft": "feet",
    "min": "minutes", "hrs": "hours", "%": "percent", "mm": "millimeters", "oz": "ounces",
}  # fmt: skip
SHORT = {
    "etc.": "et cetera", "e.g.": "for example", "i.e.": "that is", "vs.": "versus", "TV": "T V", "USA": "U S A",
    "UK": "U K", "PC": "P C", "OK": "okay", "approx.": "approximately", "ASAP": "A S A P", "CD": "C D", "ID": "I D",
}  # fmt: skip

Pair = tuple[str, str]
"""A piece of a sentence, as written and as spoken."""


def in_words(number: int) -> str:
    """A whole number from 0 to 999,999,999 in words."""
    if number < 20:
        return ONES[number]
    if number < 100:
        return TENS[number // 10] + (f" {ONES[number % 10]}" if number % 10 else "")
    for size, name in ((1_000_000, "million"), (1_000, "thousand"), (100, "hundred")):
        if number >= size:
            rest = f" {in_words(number % size)}" if number % size else ""
            return f"{in_words(number // size)} {name}{rest}"
    raise AssertionError(number)


def ordinal(number: int) -> str:
    """`third` for 3."""
    *head, last = in_words(number).split()
    regular = f"{last[:-1]}ieth" if last.endswith("y") else f"{last}th"
    last = ORDINALS.get(last, regular)
    return " ".join([*head, last])


def ordinal_suffix(number: int) -> str:
    """`3rd` for 3."""
    if number % 100 in (11, 12, 13):
        return f"{number}th"
    return f"{number}" + {1: "st", 2: "nd", 3: "rd"}.get(number % 10, "th")


def year(number: int) -> str:
    """`nineteen eighty seven` for 1987."""
    high, low = divmod(number, 100)
    if low == 0:
        return f"{in_words(high)} hundred" if high % 10 else in_words(number)
    if high == 20 and low < 10:
        return in_words(number)
    return f"{in_words(high)} {'oh ' if low < 10 else ''}{in_words(low)}"


def any_number(rng: random.Random) -> int:
    """A number as they come in sentences: mostly small."""
    top = rng.choice([10, 20, 100, 100, 1000, 10_000, 1_000_000])
    number = rng.randrange(1, top)
    return number if number < 1000 or rng.random() < 0.5 else number // 100 * 100


def quantity(rng: random.Random) -> Pair:
    """A number, a price, a share or a measure."""
    number, kind = any_number(rng), rng.randrange(6)
    written = f"{number:,}" if number >= 1000 and rng.random() < 0.5 else str(number)
    if kind == 0:
        return f"${written}", f"{in_words(number)} dollar{'s' if number > 1 else ''}"
    if kind == 1:
        unit = rng.choice(list(UNITS))
        return f"{written}{'' if unit == '%' else ' '}{unit}", f"{in_words(number)} {UNITS[unit]}"
    if kind == 2:
        tenth = rng.randrange(10)
        return f"{number % 100}.{tenth}", f"{in_words(number % 100)} point {ONES[tenth]}"
    return written, in_words(number)


def clock(rng: random.Random) -> Pair:
    """A time of day."""
    hour, minute = rng.randint(1, 12), rng.choice([0, 0, 5, 10, 15, 20, 30, 30, 40, 45, 55])
    half = rng.choice(["", " a.m.", " p.m."])
    spoken_half = {"": "", " a.m.": " A M", " p.m.": " P M"}[half]
    if minute == 0:
        return (f"{hour}{half}", f"{in_words(hour)}{spoken_half}") if half else (f"{hour} o'clock",) * 2
    spoken = f"{in_words(hour)} {'oh ' if minute < 10 else ''}{in_words(minute)}"
    return f"{hour}:{minute:02d}{half}", spoken + spoken_half


def date(rng: random.Random) -> Pair:
    """A day of a month, or a year."""
    month, day, when = rng.choice(MONTHS), rng.randint(1, 31), rng.randint(1700, 2040)
    if rng.random() < 0.4:
        return str(when), year(when)
    if rng.random() < 0.5:
        return f"{month} {day}", f"{month} {ordinal(day)}"
    return f"the {ordinal_suffix(day)} of {month}", f"the {ordinal(day)} of {month}"


def person(rng: random.Random) -> Pair:
    """Return a title and a name, as written and as spoken."""
    title, name = rng.choice(list(TITLES)), rng.choice(NAMES)
    return f"{title} {name}", f"{TITLES[title]} {name}"


def digits(rng: random.Random) -> Pair:
    """A telephone or a room number, said digit by digit."""
    number = [rng.randrange(10) for _ in range(rng.randint(3, 7))]
    written = "".join(map(str, number))
    if len(number) == 7:
        written = f"{written[:3]}-{written[3:]}"
    return written, " ".join("oh" if digit == 0 and len(number) < 5 else ONES[digit] for digit in number)


def short_form(rng: random.Random) -> Pair:
    """An abbreviation."""
    return rng.choice(list(SHORT.items()))


FRAMES = """
It costs Q.|We need Q more.|There were N people in the room.|The meeting starts at T.|I will be back at T.|
Please call me at T on D.|P will see you at T.|She was born on D.|It happened in D.|The number is G.|
My room number is G.|Please dial G.|I paid Q for this.|The bag weighs Q.|It is Q from here to the station.|
The train leaves at T.|Ask P about the N boxes.|P lives at N Park Street.|Turn to page N.|Chapter N begins on page N.|
He is N years old.|My father turned N on D.|We sold N tickets for Q.|About Q of them agreed.|The price fell by Q.|
The shop opens at T and closes at T.|From D to D the road is closed.|P and P came to dinner.|N plus N is more than N.|
Take bus N to the airport.|Flight N is delayed until T.|Your code is G.|The answer is N.|Only N of N students passed.|
They have S and many other things.|Is that S?|The S is in the other room.|Bring paper, pens, S|
It was D when P left.|Room N is on the left.|The temperature is N degrees.|I waited from T until T.|
Good morning, P.|Thank you, P.|P, please come to gate N.|The year D was very cold.|She ran N miles in N minutes.
"""
"""Sentences with holes, between bars: Q quantity, N whole number, T time, D date, P person, G digits, S short form."""

MAKERS = {"Q": quantity, "T": clock, "D": date, "P": person, "G": digits, "S": short_form}


def sentence(rng: random.Random) -> Pair:
    """A sentence with numbers or abbreviations in it, as written and as spoken."""
    written, spoken = [], []
    for word in rng.choice(FRAMES.strip().replace("\n", "").split("|")).split():
        hole, rest = word[0], word[1:]
        if len(rest.strip(".,?")) == 0 and (hole in MAKERS or hole == "N"):
            if hole == "N":
                number = any_number(rng)
                pair = str(number), in_words(number)
            else:
                pair = MAKERS[hole](rng)
            written.append(pair[0] + ("" if pair[0].endswith(".") and rest == "." else rest))
            spoken.append(pair[1] + rest)
        else:
            written.append(word)
            spoken.append(word)
    return " ".join(written), " ".join(spoken)
