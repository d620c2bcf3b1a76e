"""Questions about English words: their inflection, meaning and first letter."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from functools import cache
from typing import Final

from metadeploy.data.facts.category import Category, Fact, key
from metadeploy.data.facts.word_tables import GENDERS, KINDS, OPPOSITES, UNWANTED

__all__ = ["CATEGORIES"]

#: Number of the most frequent words (wordfreq) in the vocabulary, and the minimum Zipf frequency in most questions.
_VOCABULARY: Final = 90_000
_MIN_FREQUENCY: Final = 2.2
#: A form that is rarer than its word by more than this belongs to another use of the word (in Zipf frequency).
_MAX_RARER_THAN_WORD: Final = 2.2
#: A form that is rarer than another form by more than this is an error.
_MAX_RARER_THAN_FORM: Final = 1.7


@cache
def _vocabulary() -> tuple[str, ...]:
    from wordfreq import top_n_list

    unwanted = set(UNWANTED.split())
    words = top_n_list("en", _VOCABULARY)
    return tuple(word for word in words if word.isascii() and word.isalpha() and len(word) > 2 and word not in unwanted)


def _frequency(word: str) -> float:
    from wordfreq import zipf_frequency

    return float(zipf_frequency(word, "en"))


@cache
def _lemmas(word: str) -> dict[str, tuple[str, ...]]:
    """Return the words that a word may be a form of, by part of speech."""
    from lemminflect import getAllLemmas

    return dict(getAllLemmas(word))


@cache
def _forms(word: str, part: str, tag: str) -> tuple[str, ...]:
    """Return the usual forms of a word with a Penn tag."""
    from lemminflect import getAllInflections

    forms = [form for form in getAllInflections(word, upos=part).get(tag, ()) if form.isalpha()]
    highest = max(map(_frequency, forms), default=0.0)
    return tuple(
        sorted(
            (form for form in forms if _frequency(form) >= highest - _MAX_RARER_THAN_FORM), key=_frequency, reverse=True
        )
    )


def _entity(word: str) -> str:
    """Return the entity of all questions about a word and its opposite or counterpart."""
    return f"word:{_roots().get(word, key(word))}"


@cache
def _roots() -> dict[str, str]:
    """Map each word in the tables of opposites and sexes to the alphabetically first word of its connected group."""
    roots: dict[str, str] = {}
    for pair in (*_opposites(), *_genders()):
        one, other = (roots.get(key(word), key(word)) for word in pair)
        for word in (*map(key, pair), *(member for member, root in roots.items() if root in (one, other))):
            roots[word] = min(one, other)
    return roots


# -- inflection


def _inflected(part: str, tag: str) -> Iterator[tuple[str, tuple[str, ...], float]]:
    """Yield the base forms of a part of speech, their forms with a tag, and their frequency (Zipf)."""
    for word in _vocabulary():
        frequency = _frequency(word)
        if frequency < _MIN_FREQUENCY or not _is_typical(word, part):
            continue
        forms = _forms(word, part, tag)
        if forms and word not in forms and _frequency(forms[0]) >= max(frequency - _MAX_RARER_THAN_WORD, 2.0):
            yield word, forms, frequency


def _is_typical(word: str, part: str) -> bool:
    """Return whether a word is commonly used as this part of speech."""
    lemmas = _lemmas(word)
    if word not in lemmas.get(part, ()) or "AUX" in lemmas:
        return False
    if part == "NOUN":
        # omit nouns such as "go": a word with an irregular past is mainly a verb
        past = _forms(word, "VERB", "VBD") if "VERB" in lemmas else ()
        return not {"ADJ", "ADV"} & set(lemmas) and all(form.endswith("ed") for form in past)
    return True


def _forward(part: str, tag: str) -> Callable[[int], Iterator[Fact]]:
    """Return a builder of facts that ask for the inflected form of a base form."""

    def build(_seed: int) -> Iterator[Fact]:
        for word, forms, frequency in _inflected(part, tag):
            yield Fact(word, forms, _entity(word), frequency)

    return build


def _backward(part: str, tag: str) -> Callable[[int], Iterator[Fact]]:
    """Return a builder of facts that ask for the base form of an inflected form; all possible base forms are right."""

    def build(_seed: int) -> Iterator[Fact]:
        for word, forms, frequency in _inflected(part, tag):
            lemmas = (word, *filter(str.isalpha, _lemmas(forms[0]).get(part, ())))
            yield Fact(forms[0], tuple(dict.fromkeys(lemmas)), _entity(word), frequency)

    return build


def _compared(tag: str, how: str) -> Callable[[int], Iterator[Fact]]:
    """Return a builder for comparatives or superlatives; forms with ``more`` or ``most`` are right as well."""

    def build(_seed: int) -> Iterator[Fact]:
        for word, forms, frequency in _inflected("ADJ", tag):
            yield Fact(word, (*forms, f"{how} {word}"), _entity(word), frequency)

    return build


# -- meaning


def _entries(table: str) -> list[str]:
    return [entry.strip() for entry in re.split(r"[;\n]", table) if entry.strip()]


@cache
def _opposites() -> tuple[tuple[str, str], ...]:
    """Return all pairs of opposites, in both orders."""
    pairs = []
    for entry in _entries(OPPOSITES):
        left, right = (side.strip().split("/") for side in entry.split("|"))
        pairs += [pair for one in left for other in right for pair in ((one, other), (other, one))]
    return tuple(pairs)


@cache
def _genders() -> tuple[tuple[str, str], ...]:
    """Return all pairs of a male and a female word."""
    pairs = []
    for entry in _entries(GENDERS):
        left, right = (side.split("/") for side in entry.split())
        pairs += [(one, other) for one in left for other in right]
    return tuple(pairs)


def _counterparts(pairs: tuple[tuple[str, str], ...], ask: str = "{}") -> Iterator[Fact]:
    """Yield one fact for each word on the left, with all its counterparts as answers."""
    answers: dict[str, list[str]] = {}
    for one, other in pairs:
        answers.setdefault(one, []).append(other)
    for word, others in answers.items():
        yield Fact(ask.format(word), tuple(dict.fromkeys(others)), _entity(key(word)), _frequency(word))


def _opposite_facts(_seed: int) -> Iterator[Fact]:
    return _counterparts(_opposites())


def _gender_facts(_seed: int) -> Iterator[Fact]:
    yield from _counterparts(_genders(), 'the female counterpart of "{}"')
    yield from _counterparts(tuple((female, male) for male, female in _genders()), 'the male counterpart of "{}"')


def _kind_facts(_seed: int) -> Iterator[Fact]:
    import inflect

    engine = inflect.engine()
    kinds: dict[str, list[str]] = {}
    subjects: dict[str, str] = {}
    for line in re.split(r"\n(?! )", KINDS.strip()):
        head, things = line.split(": ")
        names = head.removesuffix(" *").split("/")
        for thing in (thing.replace("-", " ") for thing in things.split()):
            kinds.setdefault(thing, []).extend(form for name in names for form in (name, str(engine.plural(name))))
            # things of a starred kind take no article: gold, tennis, blue
            subjects.setdefault(thing, thing if head.endswith(" *") else str(engine.a(thing)))
    for thing, names_of_thing in kinds.items():
        yield Fact(subjects[thing], tuple(names_of_thing), _entity(key(thing)), _frequency(thing))


def _first_letters(_seed: int) -> Iterator[Fact]:
    for word in _vocabulary():
        # omit "A" and "I", which also occur as words in answers
        if word[0] not in "ai" and _frequency(word) >= _MIN_FREQUENCY and "NOUN" in _lemmas(word):
            yield Fact(word, (word[0].upper(),), _entity(_base(word)), _frequency(word))


def _base(word: str) -> str:
    """Return the base form of a word, so that both are in one split."""
    lemmas = [lemma for part in sorted(_lemmas(word)) for lemma in _lemmas(word)[part]]
    return min(lemmas, key=lambda lemma: (len(lemma), lemma), default=word)


CATEGORIES: Final = (
    Category(
        "plural",
        "plurals",
        ('What is the plural of "{}"?', "What is the plural form of the noun {}?", "What is the plural of {}?"),
        _forward("NOUN", "NNS"),
        max_facts=2600,
    ),
    Category(
        "singular",
        "singulars",
        ('What is the singular of "{}"?', "What is the singular form of the noun {}?", "What is the singular of {}?"),
        _backward("NOUN", "NNS"),
        max_facts=700,
    ),
    Category(
        "past",
        "past tenses",
        (
            'What is the past tense of "{}"?',
            "What is the past tense of the verb {}?",
            "What is the past form of the verb {}?",
        ),
        _forward("VERB", "VBD"),
        max_facts=1400,
    ),
    Category(
        "base_form",
        "base form of a past tense",
        (
            '"{}" is the past tense of which verb?',
            'What is the base form of the verb "{}"?',
            'Which verb has the past tense "{}"?',
        ),
        _backward("VERB", "VBD"),
        max_facts=800,
    ),
    Category(
        "comparative",
        "comparatives",
        (
            'What is the comparative of "{}"?',
            "What is the comparative form of {}?",
            "What is the comparative of the adjective {}?",
        ),
        _compared("JJR", "more"),
        repeats=3,
    ),
    Category(
        "superlative",
        "superlatives",
        (
            'What is the superlative of "{}"?',
            "What is the superlative form of {}?",
            "What is the superlative form of the word {}?",
        ),
        _compared("JJS", "most"),
        repeats=3,
    ),
    Category(
        "opposite",
        "opposites",
        ('What is the opposite of "{}"?', "What is the opposite of the word {}?", "Give an antonym of {}."),
        _opposite_facts,
        repeats=2,
    ),
    Category(
        "gender",
        "male and female words",
        ("What is {}?", "Which word is {}?"),
        _gender_facts,
        repeats=2,
    ),
    Category(
        "kind",
        "kinds of things",
        (
            "What kind of thing is {}?",
            "What is {}?",
            "{} is a type of what?",
        ),
        _kind_facts,
        repeats=3,
    ),
    Category(
        "first_letter",
        "first letter of a word",
        ("What is the first letter of the word {}?", 'What letter does the word "{}" begin with?'),
        _first_letters,
        max_facts=1600,
    ),
)
