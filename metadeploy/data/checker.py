"""Decide by rules whether an answer is right.

Rules compare the answer with the accepted answers. No model does, so everyone gets the same result. By default, only
the first sentence of the answer counts; the caller can choose the whole answer. The text must contain an accepted
answer

* as a whole word. ``Nigeria`` does not contain ``Niger``, and neither ``Guinea-Bissau`` nor ``Equatorial Guinea``
  contains ``Guinea``. A possessive such as ``Croatia's`` counts.
* in any case and with any accents: ``BOGOTA`` is ``Bogotá``. But the case of chemical symbols and of abbreviations of
  two or three capitals counts: ``He`` is not the pronoun, and ``US`` is not ``us``. ``A`` and ``I`` do not match the
  words in ``a dog`` and ``I think``.
* by value, if it is a number. ``7225`` matches ``7,225`` and ``7225.0``, and a number up to twenty matches its word.
  ``7225`` does not match ``72,250``, ``-7225``, ``7225.5`` or ``17225``.
* without a negation: not ``not in Paris``, ``isn't Paris``, ``rather than Paris``, ``neither Paris nor Rome``.

These rules accept an answer that names several things, and reject one that is right in other words. In three cases,
less of the answer counts. If the question offers a choice between numbers, the FIRST of them in the answer counts. If
the whole answer is scored and the accepted answer is a number, the LAST sentence with a number counts, because earlier
ones calculate. For multiple choice, the whole answer must name one letter: no letter, or two as in ``B. No wait, C``,
is wrong.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator, Sequence
from decimal import Decimal
from functools import lru_cache
from typing import Final

from metadeploy.data.question import LETTERS, Question

__all__ = ["chosen_letter", "first_sentence", "fold", "is_correct", "uses_full_answer"]

#: Categories in which the case of an answer counts.
_SYMBOLS: Final = frozenset({"el_symbol", "element_symbol"})

# the periods in "St. John's", "the U.S." and "1. Paris" end no sentence; a closing quote belongs to its sentence
# (csrc/text/sentences.cpp has the same rules)
_CLOSERS: Final = r"[\"'”’)」』]*"
_SENTENCE_END: Final = re.compile(
    rf"(?<!\bSt)(?<!\bMt)(?<!\bFt)(?<!\.[A-Z])(?<!^\d)[.!?]{_CLOSERS}(?=\s|$)|[。！？]{_CLOSERS}|\n"
)

#: Names that contain another name as a whole word. If two begin alike, the longer one comes first.
_LONGER_NAMES: Final = re.compile(
    r"\b(?:Democratic Republic of(?: the)? Congo|Equatorial Guinea|Papua New Guinea|New Guinea|South Sudan|North Korea|"
    r"South Korea|American Samoa|Northern Ireland|Dominican Republic|New Mexico|New South Wales|West Virginia|"
    r"Kansas City|Oklahoma City|(?:North|South|Central|Latin) America|Native American|South African|"
    r"Central African|Indian Ocean)\b",
    re.IGNORECASE,
)

#: Words that may separate a negation from the answer that it negates.
_FILLER_WORDS: Final = (
    "a|an|the|in|on|at|of|to|from|as|by|be|been|is|located|situated|found|part|called|known|named|used|spoken|"
    "capital|city|country|state|word|really|actually|necessarily|just|simply|either"
)
_NEGATION: Final = re.compile(
    r"(?:\b(?:not(?!\s+only\b)|cannot|never|neither|nor|no\s+longer|rather\s+than|instead\s+of|other\s+than|unlike)"
    rf"|n't)\s+(?:(?:{_FILLER_WORDS})\s+){{0,5}}[\"'(]*$",
    re.IGNORECASE,
)

_SAINT: Final = re.compile(r"\bSt\.\s+(?=[A-Z])")

_NUMBER_WORDS: Final = (
    *("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve"),
    *("thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen", "twenty"),
)
_NUMERIC: Final = re.compile(r"[-+−]?(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+)?")
# a number that is not part of a longer one; a sign belongs to it only if nothing precedes the sign
_NUMBER: Final = re.compile(
    r"(?<![\w.,/:])(?P<sign>(?<![\w)])[-−])?(?<!\w[-−])(?P<digits>(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+)?)"
    r"(?![\w/:]|[.,]\d)"
)
# a whole number in words, also an ordinal, such as "one hundred and five", so that no part of it matches alone
_ANY_NUMBER_WORD: Final = (
    rf"(?:{'|'.join(_NUMBER_WORDS)}|thirty|forty|fifty|sixty|seventy|eighty|ninety|hundred|thousand|million|"
    r"first|second|third|fifth|eighth|ninth|twelfth|[a-z]+t(?:een|ie)th|fourth|sixth|seventh|tenth|eleventh|"
    r"hundredth|thousandth)"
)
_NUMBER_IN_WORDS: Final = re.compile(
    rf"(?<![\w-]){_ANY_NUMBER_WORD}(?:(?:(?<=d)\s+and\s+|,\s+(?=\w+[\s-]hundred)|\s+|-){_ANY_NUMBER_WORD})*(?![\w-])",
    re.IGNORECASE,
)

#: Characters that Unicode's decomposition does not change: strokes, ligatures, apostrophes and hyphens.
_REPLACEMENTS: Final = str.maketrans(
    {"ø": "o", "Ø": "O", "ł": "l", "Ł": "L", "đ": "d", "Đ": "D", "ð": "d", "Ð": "D", "þ": "th", "Þ": "Th"}
    | {"æ": "ae", "Æ": "Ae", "œ": "oe", "Œ": "Oe", "ß": "ss", "\u0131": "i", "ə": "a", "Ə": "A"}
    | dict.fromkeys("\u2018\u2019\u02bb\u02bc\u02bf`", "'")
    | dict.fromkeys("\u2010\u2011", "-")
)


def is_correct(question: Question, text: str, *, whole: bool = False) -> bool:
    """Return whether a model's answer is right by the rules above.

    Args:
        question: the question with its accepted answers.
        text: the model's answer, without special tokens.
        whole: score the whole answer, not only its first sentence, for models that reason before they answer.

    Returns:
        True if it is right. An empty answer is wrong.
    """
    if question.choices is not None:
        return chosen_letter(question.choices, text) in question.answers
    exact = question.category in _SYMBOLS
    return any(
        _contains(answer, fold(_conclusion(answer, text) if whole else first_sentence(text)), question, exact=exact)
        for answer in question.answers
    )


def uses_full_answer(question: Question, *, whole: bool = False) -> bool:
    """Return whether the whole answer to a question counts, so that it must be generated to its end.

    Args:
        question: the question. For multiple choice, a later sentence may change the choice.
        whole: whether the settings ask for whole answers.
    """
    return whole or question.choices is not None


def first_sentence(text: str) -> str:
    """Return the first sentence or the first line of an answer, whichever is shorter."""
    return next(_sentences(text), "")


def _sentences(text: str) -> Iterator[str]:
    while text := text.strip():
        end = _SENTENCE_END.search(text)
        yield (text[: end.end()] if end else text).rstrip()
        text = text[end.end() :] if end else ""


def _conclusion(expected: str, text: str) -> str:
    """Return the part of a whole answer that counts: all of it, or the last sentence with a number."""
    if _NUMERIC.fullmatch(expected) is None:
        return text.strip()
    return next((sentence for sentence in reversed(list(_sentences(text))) if any(_numbers(fold(sentence)))), "")


@lru_cache(maxsize=4096)
def fold(text: str) -> str:
    """Return a text without accents, with plain quotes and hyphens, and ``Saint`` for ``St.``, in the same case."""
    decomposed = unicodedata.normalize("NFKD", _SAINT.sub("Saint ", text.translate(_REPLACEMENTS)))
    return "".join(char for char in decomposed if not unicodedata.combining(char))


# -- text and numbers


def _contains(answer: str, sentence: str, question: Question, *, exact: bool) -> bool:
    answer = fold(answer)
    if _NUMERIC.fullmatch(answer):
        return _contains_number(_value(answer), sentence, question.question)
    if _NUMBER_IN_WORDS.fullmatch(answer):
        matches = _NUMBER_IN_WORDS.finditer(sentence)
        return any(_same_words(match[0], answer) and not _is_negated(sentence, match.start()) for match in matches)
    case_counts = exact or (answer.isupper() and len(answer) in (2, 3))
    # an apostrophe continues the word ("can't") unless it marks a possessive
    pattern = rf"(?<!\w)(?<!\w[-']){re.escape(answer)}(?!\w|-\w|'(?!s\b)\w)"
    if answer in ("A", "I"):
        pattern += r"(?! [a-z])"  # before a word, this is an article or a pronoun
    matches = re.finditer(pattern, sentence, 0 if case_counts else re.IGNORECASE)
    longer = [name.span() for name in _LONGER_NAMES.finditer(sentence)]
    return any(
        not _is_negated(sentence, match.start()) and not any(_is_part(match.span(), name) for name in longer)
        for match in matches
    )


def _is_part(span: tuple[int, int], of: tuple[int, int]) -> bool:
    return of[0] <= span[0] and span[1] <= of[1] and span != of


def _is_negated(sentence: str, position: int) -> bool:
    return _NEGATION.search(sentence, 0, position) is not None


def _contains_number(expected: Decimal, sentence: str, question: str) -> bool:
    if _NUMBER_IN_WORDS.search(question):
        # the question asks for the digits of a number in words, so the words are not an answer
        sentence = _NUMBER_IN_WORDS.sub(" … ", sentence)
    offered = {value for _, value in _numbers(question)}
    if expected in offered and len(offered) > 1:
        # a choice between numbers: the first one counts, after removing a repetition of the question
        echo = re.compile(r"(?:between|of|from)?\s*[\d,.]*\d\s*(?:,|and|or)\s*[\d,.]*\d", re.IGNORECASE)
        sentence = echo.sub(" … ", sentence)
        first = next((value for position, value in _numbers(sentence) if not _is_negated(sentence, position)), None)
        return first == expected
    return any(value == expected and not _is_negated(sentence, position) for position, value in _numbers(sentence))


def _numbers(text: str) -> Iterator[tuple[int, Decimal]]:
    """Return the positions and values of the numbers in a text, in order; number words only up to twenty."""
    numbers = [
        (match.start(), -_value(match["digits"]) if match["sign"] else _value(match["digits"]))
        for match in _NUMBER.finditer(text)
    ]
    for match in _NUMBER_IN_WORDS.finditer(text):
        if match[0].casefold() in _NUMBER_WORDS:
            numbers.append((match.start(), Decimal(_NUMBER_WORDS.index(match[0].casefold()))))
    return iter(sorted(numbers))


def _same_words(one: str, other: str) -> bool:
    """Return whether two numbers in words are equal, without hyphens, commas and ``and``."""
    plain = (re.sub(r"[\s,-]+(?:and\s+)?", " ", text).casefold() for text in (one, other))
    return next(plain) == next(plain)


def _value(digits: str) -> Decimal:
    return Decimal(digits.replace(",", "").replace("−", "-"))


# -- multiple choice

_LEAD: Final = (
    r"(?:(?:so|thus|therefore|hence),?\s+)?(?:(?:the|my)\s+)?(?:(?:correct|right|best|final)\s+)*"
    r"(?:answer|option|choice)(?:\s+is)?\s*[:=]?\s*(?:(?:option|choice)\s+)?"
)
#: Words that announce another letter later in the answer.
_ANNOUNCED: Final = r"(?i:\banswer(?:\s+is)?\s*[:=]?\s+|\b(?:it|that)(?:\s+is|'s)\s+)"


def chosen_letter(choices: Sequence[str], text: str) -> str | None:
    """Return the letter that an answer to a multiple-choice question chooses.

    The answer must begin with a direct form, such as ``B``, ``(B)``, ``B.``, ``B) its text``, ``Answer: B`` or ``The
    correct answer is (B).``, or be the text of one choice. An explanation may follow.

    Args:
        choices: texts of choices A, B, C, …
        text: the model's whole answer.

    Returns:
        The letter, or None if the answer chooses none or is ambiguous (``B or C``, B with the text of C, ``B. No, it
        is C.``, a list of lettered lines).
    """
    letters = LETTERS[: len(choices)]
    body = re.sub(r"\*\*|__", "", text).strip()
    direct = re.match(
        rf"(?P<lead>(?i:{_LEAD}))?(?P<open>[(\[\"']*)(?P<letter>[{letters}{letters.lower()}])(?P<close>[)\]\"'.:,]*)"
        r"(?P<rest>(?!\w).*)",
        body,
        re.DOTALL,
    )
    if direct is None:
        return _by_text(choices, body)
    letter, rest = direct["letter"].upper(), direct["rest"].strip()
    is_separate = bool(direct["open"] or direct["close"] or re.match(r"[^\S\n]*(?:\n|$)", direct["rest"]))
    letter_of_rest = _by_text(choices, rest.lstrip("-–—: "))
    if letter_of_rest is not None and letter_of_rest != letter:
        return None
    if not is_separate and letter_of_rest is None and not re.match(r"(?:is|because|since|as|[-–—,;:])(?!\w)", rest):
        # in "A cell divides", A is a word and not a letter, unless "Answer:" or the like precedes it
        return letter if direct["lead"] and direct["letter"].isupper() else _by_text(choices, body)
    remainder = f"{direct['close']}{rest}"
    others = {
        *re.findall(rf"(?:\b(?:or|and)\s+|[/,&]\s*|\(|{_ANNOUNCED})([{letters}])(?=[\s).,:/]|$)", remainder),
        *re.findall(rf"^\s*([{letters}])(?=[).:]|\s*$)", remainder, re.MULTILINE),
    }
    return letter if others <= {letter} else None


def _by_text(choices: Sequence[str], text: str) -> str | None:
    """Return the letter of the one choice whose text equals the text, its first line or its first sentence."""
    candidates = {_normalized(text), _normalized(text.partition("\n")[0]), _normalized(first_sentence(text))}
    letters = [letter for letter, choice in zip(LETTERS, choices, strict=False) if _normalized(choice) in candidates]
    return letters[0] if len(letters) == 1 else None


def _normalized(text: str) -> str:
    return " ".join(fold(text).casefold().strip(" \t\n.,;:!?\"'()").split())
