"""Numbers and abbreviations: how they are written, and the words that a speaker says for them. Sentences are everyday
ones with holes."""

from __future__ import annotations

import random

from demo.voice import everyday

ONES_TEXT = (
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen "
    "eighteen nineteen"
)
TENS_TEXT = "_ _ twenty thirty forty fifty sixty seventy eighty ninety"
MONTHS_TEXT = "January February March April May June July August September October November December"
NAMES_TEXT = (
    "Smith Jones Brown Miller Taylor Wilson Moore Clark Lewis Walker Young King Hill Green Baker Adams Nelson Carter "
    "Parker Collins Stewart Morris Cook Reed Bell Cooper Ward Gray Price Bennett Wood Ross Long Foster Johnson Davis "
    "Anderson Thomas Jackson White Harris Martin Robinson Allen Wright Scott Evans Turner Phillips Murphy Watson Kelly"
)
STREETS_TEXT = (
    "Park Main High Oak Mill Church Station King Market Bridge River Lake Garden Green School Hill First Fifth"
)
SAINTS_TEXT = "Mary John Paul Peter Thomas James George Louis Andrew Helen"
PLURALS_TEXT = (
    "eggs books chairs days weeks years months hours minutes people miles boxes cars tickets pages students children "
    "dogs cats letters bottles cups apples rooms doors houses streets trees friends shoes horses pictures tables seats"
)
ONES, TENS, MONTHS, NAMES = (text.split() for text in (ONES_TEXT, TENS_TEXT, MONTHS_TEXT, NAMES_TEXT))
STREETS, SAINTS, PLURALS = (text.split() for text in (STREETS_TEXT, SAINTS_TEXT, PLURALS_TEXT))
ORDINALS = {"one": "first", "two": "second", "three": "third", "five": "fifth", "eight": "eighth", "nine": "ninth"}
ORDINALS |= {"twelve": "twelfth"}
TITLES = {"Mr.": "Mister", "Mrs.": "Missis", "Dr.": "Doctor", "Ms.": "Miz", "Prof.": "Professor", "Capt.": "Captain"}
WAYS = {"St.": "Street", "Rd.": "Road", "Ave.": "Avenue", "Street": "Street", "Road": "Road"}
UNITS = {
    "km": "kilometers", "kg": "kilograms", "cm": "centimeters", "mph": "miles an hour", "lbs": "pounds", "ft": "feet",
    "min": "minutes", "hrs": "hours", "mm": "millimeters", "oz": "ounces", "sec": "seconds", "mi": "miles",
}  # fmt: skip
LETTER_A = "eh"
"""The letter's name; espeak takes a single A for the article."""
SHORT = {
    "etc.": "et cetera", "e.g.": "for example", "i.e.": "that is", "vs.": "versus", "TV": "T V", "USA": "U S eh",
    "UK": "U K", "PC": "P C", "OK": "okay", "approx.": "approximately", "ASAP": "eh S eh P", "CD": "C D", "ID": "I D",
}  # fmt: skip

MINUTES = (0, 0, 0, 0, 5, 10, 15, 15, 20, 25, 30, 30, 30, 35, 40, 45, 45, 50, 55)
"""Of a time of day, the common ones several times."""

Pair = tuple[str, str]
"""A piece of a sentence, as written and as spoken."""


def in_words(number: int) -> str:
    """Return a whole number from 0 to 999,999,999 in words."""
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
    """Return `third` for 3."""
    *head, last = in_words(number).split()
    regular = f"{last[:-1]}ieth" if last.endswith("y") else f"{last}th"
    last = ORDINALS.get(last, regular)
    return " ".join([*head, last])


def ordinal_suffix(number: int) -> str:
    """Return `3rd` for 3."""
    if number % 100 in (11, 12, 13):
        return f"{number}th"
    return f"{number}" + {1: "st", 2: "nd", 3: "rd"}.get(number % 10, "th")


def year(number: int) -> str:
    """Return `nineteen eighty seven` for 1987."""
    high, low = divmod(number, 100)
    if low == 0:
        return f"{in_words(high)} hundred" if high % 10 else in_words(number)
    if high == 20 and low < 10:
        return in_words(number)
    return f"{in_words(high)} {'oh ' if low < 10 else ''}{in_words(low)}"


def any_number(rng: random.Random) -> int:
    """Return a number of those that sentences have, which are mostly small."""
    number = rng.randrange(1, rng.choice([10, 20, 100, 100, 100, 1000, 1000, 10_000, 100_000]))
    return number if number < 1000 or rng.random() < 0.4 else number // 100 * 100


def whole(rng: random.Random) -> Pair:
    """Return a whole number. Thousands have a comma, so that they differ from years."""
    number = any_number(rng)
    return f"{number:,}", in_words(number)


def quantity(rng: random.Random) -> Pair:
    """Return a number, a price, a share or a measure."""
    number, kind = any_number(rng), rng.random()
    written, spoken = f"{number:,}", in_words(number)
    if kind < 0.3:
        cents = rng.randrange(5, 100, 5) if number < 100 and rng.random() < 0.3 else 0
        dollars = f"{spoken} dollar{'s' if number > 1 else ''}"
        if cents:
            return f"${written}.{cents:02d}", f"{dollars} and {in_words(cents)} cents"
        return f"${written}", dollars
    if kind < 0.5:
        number = rng.randrange(1, 101)
        return f"{number}%", f"{in_words(number)} percent"
    if kind < 0.8:
        unit = rng.choice(list(UNITS))
        return f"{written} {unit}", f"{spoken} {UNITS[unit]}"
    if kind < 0.9:
        tenth = rng.randrange(10)
        return f"{number % 100}.{tenth}", f"{in_words(number % 100)} point {ONES[tenth]}"
    return written, spoken


def clock(rng: random.Random) -> Pair:
    """Return a time of day."""
    hour, minute = rng.randint(1, 12), rng.choice(MINUTES)
    half = rng.choice(["", " a.m.", " p.m.", " a.m.", " p.m.", "am", "pm", " AM", " PM"])
    spoken_half = "" if not half else f" {LETTER_A if 'a' in half.lower() else 'P'} M"
    if minute == 0:
        last, spoken_last = (half, spoken_half) if half else (" o'clock",) * 2
        return f"{hour}{last}", in_words(hour) + spoken_last
    spoken = f"{in_words(hour)} {'oh ' if minute < 10 else ''}{in_words(minute)}"
    return f"{hour}:{minute:02d}{half}", spoken + spoken_half


def date(rng: random.Random) -> Pair:
    """Return a day of a month, a year, or both."""
    month, day, when = rng.choice(MONTHS), rng.randint(1, 31), rng.randint(1700, 2040)
    kind, short = rng.random(), month[:3] + "." if month != "May" and rng.random() < 0.2 else month
    if kind < 0.35:
        return str(when), year(when)
    if kind < 0.6:
        return f"{short} {day}", f"{month} {ordinal(day)}"
    if kind < 0.8:
        return f"{short} {day}, {when}", f"{month} {ordinal(day)}, {year(when)}"
    return f"the {ordinal_suffix(day)} of {month}", f"the {ordinal(day)} of {month}"


def rank(rng: random.Random) -> Pair:
    """Return an ordinal number such as `2nd`."""
    number = rng.choice([rng.randint(1, 9), rng.randint(1, 31), rng.randint(1, 99)])
    return ordinal_suffix(number), ordinal(number)


def person(rng: random.Random) -> Pair:
    """Return a title and a name, as written and as spoken; a couple or a son at times."""
    title, name, kind = rng.choice(list(TITLES)), rng.choice(NAMES), rng.random()
    if kind < 0.15:
        return f"Mr. and Mrs. {name}", f"Mister and Missis {name}"
    if kind < 0.2:
        return f"{title} {name} Jr.", f"{TITLES[title]} {name} Junior"
    if rng.random() < 0.15:
        return f"{title[:-1]} {name}", f"{TITLES[title]} {name}"
    return f"{title} {name}", f"{TITLES[title]} {name}"


def address(rng: random.Random) -> Pair:
    """Return a street, mostly with a number, or a place that is named after a saint."""
    name, way = rng.choice(STREETS), rng.choice(list(WAYS))
    if rng.random() < 0.2:
        saint = rng.choice(SAINTS)
        return f"St. {saint}", f"Saint {saint}"
    if rng.random() < 0.3:
        return f"{name} {way}", f"{name} {WAYS[way]}"
    number = rng.choice([rng.randint(1, 99), rng.randint(100, 999)])
    return f"{number} {name} {way}", f"{in_words(number)} {name} {WAYS[way]}"


def telephone(rng: random.Random) -> Pair:
    """Return a telephone number, which is said digit by digit."""
    number = [rng.randrange(10) for _ in range(7)]
    written = "".join(map(str, number))
    return f"{written[:3]}-{written[3:]}", " ".join(ONES[digit] for digit in number)


def short_form(rng: random.Random) -> Pair:
    """Return an abbreviation."""
    return rng.choice(list(SHORT.items()))


JUDGED = {
    "The room costs $85 a night.": "the room costs eighty five dollars a night",
    "Dr. Green will call you at 3 p.m.": "doctor green will call you at three p m",
    "My sister is 27 years old.": "my sister is twenty seven years old",
    "The bus leaves at 10:30 from gate 4.": "the bus leaves at ten thirty from gate four",
    "There are 365 days in a year.": "there are three hundred sixty five days in a year",
    "He was born on May 14, 1962.": "he was born on may fourteenth nineteen sixty two",
    "Mr. and Mrs. Wilson bought 12 eggs.": "mister and missis wilson bought twelve eggs",
    "About 40% of the seats are empty.": "about forty percent of the seats are empty",
    "The village is 6 km from the sea.": "the village is six kilometers from the sea",
    "The 2nd house on the left is ours.": "the second house on the left is ours",
    "Please call me back before 9 a.m.": "please call me back before nine a m",
    "Our office is at 18 Church St.": "our office is at eighteen church street",
    "She paid $200 for the old table.": "she paid two hundred dollars for the old table",
    "We sell paper, pens, books, etc.": "we sell paper pens books et cetera",
    "The war ended in 1945.": "the war ended in nineteen forty five",
    "Only 75% of the students passed.": "only seventy five percent of the students passed",
    "Mrs. Brown has 3 dogs and 2 cats.": "missis brown has three dogs and two cats",
    "It is 15 degrees outside today.": "it is fifteen degrees outside today",
    "Read pages 20 to 35 for Monday.": "read pages twenty to thirty five for monday",
    "My grandfather is 91.": "my grandfather is ninety one",
}
"""Sentences to judge with, and what should be heard. The training says nothing with five words in a row of them."""

FRAMES = """
It costs Q.|We need Q more.|There were N people in the {place}.|The meeting starts at T.|I will be back at T.|
Please call me at T on D.|P will see you at T.|She was born on D.|It happened in D.|The number is G.|
My telephone number is G.|Please dial G.|I paid Q for this {thing}.|The bag weighs Q.|It is Q from here to the {place}.|
The train leaves at T.|Ask P about the N boxes.|P lives at R.|Turn to page N.|Chapter N begins on page N.|
He is N years old.|My {person} turned N on D.|We sold N tickets for Q.|About Q of the {food} is left.|
The price fell by Q.|The shop opens at T and closes at T.|From D to D the road is closed.|P and P came to dinner.|
N plus N is more than N.|Take bus N to the {place}.|Flight N is delayed until T.|The answer is N.|
Only N of N students passed.|They have {food}, {food}, S|Is that S?|The S is in the other room.|Bring paper, pens, S|
It was D when P left.|Room N is on the left.|The temperature is N degrees.|I waited from T until T.|
Good morning, P.|Thank you, P.|P, please come to gate N.|The year D was very cold.|She ran N miles in N minutes.|
A {thing} costs Q.|This {adj} {thing} costs Q a day.|The {thing} was Q last year.|{who} paid Q for the {thing}.|
Nearly Q of the {thing} was {adj}.|More than Q of all people agree.|Less than Q of the work is done.|
The {place} is Q from the {place}.|It is only Q to the sea.|The {thing} is N meters long and N meters wide.|
There are N {plural} in the {thing}.|There are N hours in N days.|I have N {plural} and N {plural}.|
{who} {did} N {plural} {when}.|{who} {did} N of my {plural}.|Please bring N {plural}.|We bought N {plural} for Q.|
My {person} is N years old.|Her {person} will be N on D.|His {person} died in D.|They were married on D.|
The {person} was born in D.|This {place} was built in D.|Since D {who} {did} {what}.|On D {who} {did} {what}.|
P {did} {what}.|P {did} N {plural}.|P and I {did} {what}.|Can you ask P about the {thing}?|Where does P live?|
The {person} spoke to P {when}.|P will call you at T.|Have you met P?|Is P at home?|P is not here at T.|
The bus leaves at T from stop N.|The plane leaves at T from gate N.|Breakfast is at T.|Dinner is served at T.|
It was T when {who} {did} {what}.|I get up at T every day.|The film begins at T and ends at T.|See you at T.|
The O {thing} on the left is {adj}.|He came O in the race.|This is the O time today.|It is her O birthday.|
The O {person} was {adj}.|Take the O street on the right.|They live on the O floor.|{who} sat in the O row.|
We live at R.|The {place} is at R.|Meet me in R.|Turn left into R.|A {person} lives in R.|The {place} of R is {adj}.|
{food}, {food}, S|The {person} has a new S.|I saw it on S.|Reply S, please.|{say} it is S.|It is red S green.|
Read pages N to N.|Call G at T.|The score was N to N.|Add N and N.|N times N is N.|Divide N by N.|
Open the book at page N.|The O of {month} is a {adj} day.|Mix Q of {food} with Q of {food}.|Wait N minutes.|
I am N, and my {person} is N.|The {animal} weighs Q.|The {thing} holds Q.|{when}, P {did} {what}.|No. N is {adj}.
"""
"""Sentences with holes, between bars: Q quantity, N whole number, O rank, T time, D date, P person, R road, G
telephone, S short form; in braces `everyday.WORDS`, nouns, `plural` and `month`."""

MAKERS = {
    "Q": quantity, "N": whole, "O": rank, "T": clock, "D": date, "P": person, "R": address, "G": telephone,
    "S": short_form,
}  # fmt: skip


def sentence(rng: random.Random, nouns: dict[str, list[str]]) -> Pair:
    """Return a sentence with numbers or abbreviations in it, as written and as spoken."""
    frame = rng.choice(FRAMES.strip().replace("\n", "").split("|"))
    frame = everyday.fill(frame, rng, nouns | {"plural": PLURALS, "month": MONTHS})
    written, spoken = [], []
    for word in (frame[0].upper() + frame[1:]).split():
        hole, rest = word[0], word[1:]
        if hole in MAKERS and not rest.strip(".,?"):
            pair = MAKERS[hole](rng)
            written.append(pair[0] + ("" if pair[0].endswith(".") and rest == "." else rest))
            spoken.append(pair[1] + rest)
        else:
            written.append(word)
            spoken.append("Number" if word == "No." else word)
    return " ".join(written), " ".join(spoken)
