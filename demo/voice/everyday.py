"""Everyday sentences from a grammar: common words, each heard in many places."""

from __future__ import annotations

import random
import re
from functools import cache
from pathlib import Path

KINDS = {"animal": "05", "thing": "06", "food": "13", "place": "15", "person": "18", "plant": "20"}
"""WordNet's numbers of the lexicographers' files of nouns."""

WORDS = {
    "who": "I|you|we|they|he|she|my mother|my father|my brother|my sister|our neighbor|the teacher|the doctor|his wife|"
    "her husband|the old man|the young woman|the children|a friend of mine|your son|our daughter|everybody|nobody|"
    "somebody|the man next door|the driver|the girls|two boys|most people|the whole family|my uncle|my aunt|the police|"
    "Peter|Mary|John|Anna|Tom|Susan|Michael|Laura|David|Helen|George|Emma|the {person}|a {person}",
    "did": "found|lost|bought|sold|wanted|needed|saw|heard|liked|forgot|remembered|opened|closed|cleaned|washed|broke|"
    "fixed|moved|carried|brought|took|left|kept|showed me|gave me|asked about|talked about|thought about|looked at|"
    "waited for|paid for|looked for|put away|picked up|threw away|could see|could not find|had to leave|will bring|"
    "is going to buy|used to have|should have|might need|must not touch|would like to see|has already seen|"
    "never liked|always wanted|just finished|almost dropped|does not like|did not want|cannot carry|will not sell",
    "what": "the {adj} {thing}|a {adj} {thing}|the {thing}|this {thing}|that {thing}|some {food}|the {food}|"
    "my {thing}|"
    "your {thing}|his {thing}|her {thing}|our {thing}|their {thing}|the {animal}|a {adj} {animal}|the {adj} {person}|"
    "another {thing}|every {thing}|two {adj} friends|the {thing} and the {thing}|the {color} {thing}|it|them|that|this|"
    "something else|nothing at all|a lot of {food}|a piece of {food}|the {plant}|many {adj} things",
    "when": "today|yesterday|tomorrow|last night|this morning|this evening|on Monday|on Tuesday|on Wednesday|"
    "on Thursday|on Friday|on Saturday|on Sunday|last week|next month|every day|after dinner|"
    "before breakfast|in the summer|in the winter|at night|at noon|a long time ago|right now|"
    "as soon as possible|for the first time|once again|two days ago|in a few minutes|for three weeks|"
    "all day long|at the weekend|in spring|again and again|later",
    "where": "at home|at school|at work|in the kitchen|in the garden|in town|in the street|on the table|on the floor|"
    "under the bed|behind the house|near the river|next to the door|in front of the {place}|in the {place}|"
    "at the {thing}|outside|upstairs|downstairs|in the city|in the country|by the sea|in the car|on the bus|"
    "on the train|at the airport|in the hospital|in the office|around the corner|across the road|over there|here|there",
    "adj": "good|bad|big|small|old|new|young|long|short|high|low|hot|cold|warm|clean|dirty|heavy|light|dark|bright|"
    "cheap|expensive|easy|difficult|strange|beautiful|ugly|happy|sad|angry|tired|hungry|thirsty|quiet|loud|soft|hard|"
    "sweet|empty|full|wet|dry|fast|slow|early|late|rich|poor|strong|weak|thin|thick|nice|lovely|kind|clever|funny|"
    "serious|famous|important|dangerous|safe|ready|broken|wonderful|terrible|perfect|different|certain|careful|huge",
    "color": "red|blue|green|yellow|white|black|brown|gray|orange|pink|purple|golden",
    "does": "sleeps|works|lives|sings|waits|reads|runs|walks|sits|cooks|plays|swims|lies|stands|travels|studies|eats",
    "doing": "sleeping|working|singing|waiting|reading|running|walking|sitting|cooking|playing|swimming|talking|"
    "laughing|"
    "crying|dancing|studying|eating|writing|listening to music|watching television|"
    "playing football|going home|"
    "looking for the {thing}|talking to the {person}|cleaning the {thing}|making {food}|learning English",
    "do": "go home|come back|wait here|sit down|stand up|stay there|try again|read this book|write a letter|"
    "call the {person}|open the {thing}|close the {thing}|buy some {food}|eat the {food}|wash the {thing}|leave now|"
    "take the {thing}|look at the {animal}|talk to {whom}|help {whom}|listen to {whom}|speak English|drive a car|"
    "play the {thing}|tell {whom} the truth|show {whom} the {thing}|give {whom} the {thing}|bring {whom} some {food}|"
    "turn left at the {thing}|go to the {place}|be {adj}|be careful|stay in bed|cook dinner|go for a walk|take a break",
    "whom": "me|you|him|her|us|them|your mother|the {person}|my friend|everybody|the children|your brother",
    "and": "and|but|because|so|while|when|although|if|until|before|after|and then|since",
    "say": "I think|I hope|I know|I am sure|I am afraid|he said|she said|they say|I believe|it seems|you see|I suppose|"
    "I guess|we all know|she told me|he thinks|do you know if|I wonder whether|it is true that|everyone says",
}  # fmt: skip

FORMS = (
    "{who} {did} {what}|{who} {did} {what} {when}|{who} {did} {what} {where}|{when}, {who} {did} {what}|"
    "{who} {did} {what} {and} {who} {did} {what}|{say} {who} {did} {what}|{say} it is {adj}|"
    "the {thing} is {adj}|the {thing} was {adj} and {adj}|this {thing} is too {adj} for me|it is very {adj} {where}|"
    "the {adj} {thing} is {where}|there is a {thing} {where}|there was a {adj} {animal} {where}|"
    "there are no {food} left|"
    "I am {doing} {where}|we were {doing} when {who} {did} {what}|she is {doing} {when}|are you {doing}|"
    "{who} is not {adj}|were they {adj} {when}|he is {doing} with the {person}|is your {person} {doing}|"
    "please {do}|please {do} {when}|do not {do}|let us {do}|can you {do}|could you {do}, please|you should {do} {when}|"
    "I would like to {do}|we have to {do} {when}|why did you {do}|when will they {do}|how can I {do}|shall we {do}|"
    "where is the {thing}|where are my {thing} and my {thing}|what is the {thing} for|who is that {person}|"
    "how old is the {person}|how long is the {thing}|how many people {did} {what}|which {thing} do you want|"
    "what are you {doing} for|whose {thing} is this|what a {adj} {thing}|how {adj} it is {when}|"
    "my {person} {does} {where}|the {animal} {does} {where}|her {person} {does} {where} {when}|it {does} {when}|"
    "thank you for the {food}|thank you very much|nice to meet you, {person}|see you {when}|good luck with the {thing}|"
    "yes, {who} {did} {what}|no, {who} {did} {what}|well, {say} {who} {did} {what}|"
    "I want to {do}, but I am too {adj}|if you are {adj}, {do}|{do} and {do}|he had no {thing}, so he {did} {what}|"
    "it was {adj} of you to {do}|the {person} asked me to {do}|I have never seen a {adj} {animal}|"
    "the {thing} in the {place} {and} the {thing} {where}|{adj}, {adj} and {adj}|the {place} is far from the {place}|"
    "a {person} and a {animal}|the {food} tastes {adj}|I do not eat {food} {when}|do you have any {food}|"
    "it is {adj} today|it was {adj} when {who} {did} {what}|{who} {did} {what}, {did} {what} and {did} {what}"
)  # fmt: skip


def common_nouns(wordnet: Path) -> dict[str, list[str]]:
    """Nouns that WordNet's tagged texts use at least twice, by kind."""
    nouns: dict[str, list[str]] = {kind: [] for kind in KINDS}
    kinds = {number: kind for kind, number in KINDS.items()}
    for line in (wordnet / "cntlist.rev").read_text(encoding="latin-1").splitlines():
        found = re.match(r"([a-z]{3,11})%1:(\d\d):\S+ (\d+) (\d+)", line)
        if found and found[2] in kinds and int(found[3]) <= 3 and int(found[4]) >= 2:
            nouns[kinds[found[2]]].append(found[1])
    return nouns


@cache
def _choices(key: str) -> list[str]:
    return WORDS[key].split("|")


def sentence(rng: random.Random, nouns: dict[str, list[str]]) -> str:
    """A sentence without capital and mark at its end."""
    return fill(rng.choice(FORMS.split("|")), rng, nouns)


def fill(text: str, rng: random.Random, nouns: dict[str, list[str]]) -> str:
    """Put words into the holes in braces, by the names of `WORDS` and of `nouns`."""
    while hole := re.search(r"\{(\w+)\}", text):
        key = hole[1]
        word = rng.choice(nouns[key] if key in nouns else _choices(key))
        text = text[: hole.start()] + word + text[hole.end() :]
    text = re.sub(r"\b([aA]) ([aeiou])", r"\1n \2", text)
    return re.sub(r"\bi\b", "I", text)
