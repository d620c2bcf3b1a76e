"""When an answer counts as right.

What a model says is compared with the accepted answers by rule, not by another model, so that everyone gets the same
verdict. Only the opening sentence counts, or the whole answer where that is asked for. An accepted answer has to stand
in it

* as a whole word: ``Niger`` is not in ``Nigeria``, nor ``Guinea`` in ``Guinea-Bissau`` or ``Equatorial Guinea``;
  a possessive is (``Croatia's``);
* whatever its case and its accents (``BOGOTA`` is ``Bogotá``), except that chemical symbols and abbreviations of two or
  three capitals keep their case: ``He`` is no pronoun and ``US`` is not ``us``; nor are the words of ``a dog`` and ``I
  think`` letters;
* for a number by its value: ``7225`` is ``7,225``, ``7225.0`` and, up to twenty, its word; it is not in ``72,250``,
  ``-7225``, ``7225.5`` or ``17225``;
* and not denied: ``not in Paris``, ``isn't Paris``, ``rather than Paris``, ``neither Paris nor Rome``.

Otherwise this is generous to an answer that names several things, and strict to one that is right in other words. Where
that would be worthless, less is read: of a choice between numbers that the question itself names, the FIRST that the
answer names; of a whole answer, where a number is asked for, the LAST sentence with a number in it, for those before it
calculate. For multiple choice the letter is extracted from the whole answer, and one that names no letter, or two
as in ``B. No wait, C``, is wrong.
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

#: Categories whose answers are told apart by their case.
_SYMBOLS: Final = frozenset({"el_symbol", "element_symbol"})

# "St. John's", "the U.S." and "1. Paris" go on; a closing quote belongs to the sentence before it
_SENTENCE_END: Final = re.compile(r"(?<!\bSt)(?<!\bMt)(?<!\bFt)(?<!\.[A-Z])(?<!^\d)[.!?][\"'”’)]*(?=\s|$)|\n")

#: Names that have another name in them as a whole word; the longest of those that begin alike stands first.
_LONGER_NAMES: Final = re.compile(
    r"\b(?:Democratic Republic of(?: the)? Congo|Equatorial Guinea|Papua New Guinea|New Guinea|South Sudan|North Korea|"
    r"South Korea|American Samoa|Northern Ireland|Dominican Republic|New Mexico|New South Wales|West Virginia|"
    r"Kansas City|Oklahoma City|(?:North|South|Central|Latin) America|Native American|South African|"
    r"Central African|Indian Ocean)\b",
    re.IGNORECASE,
)

#: What may stand between a denial and what it denies.
_BETWEEN: Final = (
    "a|an|the|in|on|at|of|to|from|as|by|be|been|is|located|situated|found|part|called|known|named|used|spoken|"
    "capital|city|country|state|word|really|actually|necessarily|just|simply|either"
)
_DENIED: Final = re.compile(
    r"(?:\b(?:not(?!\s+only\b)|cannot|never|neither|nor|no\s+longer|rather\s+than|instead\s+of|other\s+than|unlike)"
    rf"|n't)\s+(?:(?:{_BETWEEN})\s+){{0,5}}[\"'(]*$",
    re.IGNORECASE,
)

_SAINT: Final = re.compile(r"\bSt\.\s+(?=[A-Z])")

_NUMBER_WORDS: Final = (
    *("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve"),
    *("thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen", "twenty"),
)
_NUMERIC: Final = re.compile(r"[-+−]?(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+)?")
# a number with nothing attached that makes it another one; a sign is its own only where nothing stands before it
_NUMBER: Final = re.compile(
    r"(?<![\w.,/:])(?P<sign>(?<![\w)])[-−])?(?<!\w[-−])(?P<digits>(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+)?)"
    r"(?![\w/:]|[.,]\d)"
)
# a number in words as a whole, "one hundred and five" and its ordinal too, so that no part of it is taken for another
_ANY_NUMBER_WORD: Final = (
    rf"(?:{'|'.join(_NUMBER_WORDS)}|thirty|forty|fifty|sixty|seventy|eighty|ninety|hundred|thousand|million|"
    r"first|second|third|fifth|eighth|ninth|twelfth|[a-z]+t(?:een|ie)th|fourth|sixth|seventh|tenth|eleventh|"
    r"hundredth|thousandth)"
)
_NUMBER_IN_WORDS: Final = re.compile(
    rf"(?<![\w-]){_ANY_NUMBER_WORD}(?:(?:(?<=d)\s+and\s+|,\s+(?=\w+[\s-]hundred)|\s+|-){_ANY_NUMBER_WORD})*(?![\w-])",
    re.IGNORECASE,
)

#: What Unicode's decomposition leaves as it is: strokes, ligatures, and the many apostrophes and hyphens.
_PLAIN: Final = str.maketrans(
    {"ø": "o", "Ø": "O", "ł": "l", "Ł": "L", "đ": "d", "Đ": "D", "ð": "d", "Ð": "D", "þ": "th", "Þ": "Th"}
    | {"æ": "ae", "Æ": "Ae", "œ": "oe", "Œ": "Oe", "ß": "ss", "\u0131": "i", "ə": "a", "Ə": "A"}
    | dict.fromkeys("\u2018\u2019\u02bb\u02bc\u02bf`", "'")
    | dict.fromkeys("\u2010\u2011", "-")
)


def is_correct(question: Question, text: str, *, whole: bool = False) -> bool:
    """Whether a model's answer is right, by the rules above.

    Args:
        question: what was asked, with its accepted answers.
        text: what the model said, special tokens left out.
        whole: judge all of it, as models need it that reason before they answer, and not its opening sentence.

    Returns:
        The verdict; an empty answer is wrong.
    """
    if question.choices is not None:
        return chosen_letter(question.choices, text) in question.answers
    exact = question.category in _SYMBOLS
    return any(
        _stands_in(answer, fold(_conclusion(answer, text) if whole else first_sentence(text)), question, exact=exact)
        for answer in question.answers
    )


def uses_full_answer(question: Question, *, whole: bool = False) -> bool:
    """Whether all of an answer to a question counts, so that it is to be spoken and kept to its end.

    Args:
        question: what is asked; a choice may be taken back after the first sentence.
        whole: whether that is asked for.
    """
    return whole or question.choices is not None


def first_sentence(text: str) -> str:
    """The opening sentence of an answer, or its first line, whichever is shorter."""
    return next(_sentences(text), "")


def _sentences(text: str) -> Iterator[str]:
    while text := text.strip():
        end = _SENTENCE_END.search(text)
        yield (text[: end.end()] if end else text).rstrip()
        text = text[end.end() :] if end else ""


def _conclusion(wanted: str, text: str) -> str:
    """What counts of a whole answer."""
    if _NUMERIC.fullmatch(wanted) is None:
        return text.strip()
    return next((each for each in reversed(list(_sentences(text))) if any(_numbers(fold(each)))), "")


@lru_cache(maxsize=4096)
def fold(text: str) -> str:
    """A text without accents, with plain quotes and hyphens, and with ``Saint`` for ``St.``; its case is kept."""
    decomposed = unicodedata.normalize("NFKD", _SAINT.sub("Saint ", text.translate(_PLAIN)))
    return "".join(char for char in decomposed if not unicodedata.combining(char))


# -- text and numbers


def _stands_in(answer: str, sentence: str, question: Question, *, exact: bool) -> bool:
    answer = fold(answer)
    if _NUMERIC.fullmatch(answer):
        return _number_stands_in(_value(answer), sentence, question.question)
    if _NUMBER_IN_WORDS.fullmatch(answer):
        written = _NUMBER_IN_WORDS.finditer(sentence)
        return any(_same_words(each[0], answer) and not _is_denied(sentence, each.start()) for each in written)
    case_counts = exact or (answer.isupper() and len(answer) in (2, 3))
    # an apostrophe goes on with the word ("can't"), but for a possessive
    pattern = rf"(?<!\w)(?<!\w[-']){re.escape(answer)}(?!\w|-\w|'(?!s\b)\w)"
    if answer in ("A", "I"):
        pattern += r"(?! [a-z])"  # an article, a pronoun
    matches = re.finditer(pattern, sentence, 0 if case_counts else re.IGNORECASE)
    longer = [name.span() for name in _LONGER_NAMES.finditer(sentence)]
    return any(
        not _is_denied(sentence, match.start()) and not any(_is_part(match.span(), name) for name in longer)
        for match in matches
    )


def _is_part(span: tuple[int, int], of: tuple[int, int]) -> bool:
    return of[0] <= span[0] and span[1] <= of[1] and span != of


def _is_denied(sentence: str, position: int) -> bool:
    return _DENIED.search(sentence, 0, position) is not None


def _number_stands_in(wanted: Decimal, sentence: str, question: str) -> bool:
    if _NUMBER_IN_WORDS.search(question):
        # asked for the digits of a number in words, its words are no answer
        sentence = _NUMBER_IN_WORDS.sub(" … ", sentence)
    named = {value for _, value in _numbers(question)}
    if wanted in named and len(named) > 1:
        # a choice between numbers: all of them may be named, and the first that is not just the question's echo counts
        echo = re.compile(r"(?:between|of|from)?\s*[\d,.]*\d\s*(?:,|and|or)\s*[\d,.]*\d", re.IGNORECASE)
        sentence = echo.sub(" … ", sentence)
        first = next((value for position, value in _numbers(sentence) if not _is_denied(sentence, position)), None)
        return first == wanted
    return any(value == wanted and not _is_denied(sentence, position) for position, value in _numbers(sentence))


def _numbers(text: str) -> Iterator[tuple[int, Decimal]]:
    """Positions and values of the numbers in a text, in order; in words only up to twenty."""
    found = [
        (match.start(), -_value(match["digits"]) if match["sign"] else _value(match["digits"]))
        for match in _NUMBER.finditer(text)
    ]
    for match in _NUMBER_IN_WORDS.finditer(text):
        if match[0].casefold() in _NUMBER_WORDS:
            found.append((match.start(), Decimal(_NUMBER_WORDS.index(match[0].casefold()))))
    return iter(sorted(found))


def _same_words(one: str, other: str) -> bool:
    """Whether two numbers in words are the same but for hyphens, commas and ``and``."""
    plain = (re.sub(r"[\s,-]+(?:and\s+)?", " ", text).casefold() for text in (one, other))
    return next(plain) == next(plain)


def _value(digits: str) -> Decimal:
    return Decimal(digits.replace(",", "").replace("−", "-"))


# -- multiple choice

_LEAD: Final = (
    r"(?:(?:so|thus|therefore|hence),?\s+)?(?:(?:the|my)\s+)?(?:(?:correct|right|best|final)\s+)*"
    r"(?:answer|option|choice)(?:\s+is)?\s*[:=]?\s*(?:(?:option|choice)\s+)?"
)
#: What announces another letter later on.
_NAMED: Final = r"(?i:\banswer(?:\s+is)?\s*[:=]?\s+|\b(?:it|that)(?:\s+is|'s)\s+)"


def chosen_letter(choices: Sequence[str], text: str) -> str | None:
    """The letter that an answer to a multiple-choice question chooses.

    Read are the direct forms ``B``, ``(B)``, ``B.``, ``B) its text``, ``Answer: B``, ``The correct answer is (B).``,
    and the text of one choice alone; what follows may explain it.

    Args:
        choices: texts of choices A, B, C, …
        text: what the model said, all of it.

    Returns:
        The letter; None where none is chosen or the answer is ambiguous (``B or C``, B with the text of C, ``B. No, it
        is C.``, one lettered line after the other).
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
    stands_off = bool(direct["open"] or direct["close"] or re.match(r"[^\S\n]*(?:\n|$)", direct["rest"]))
    of_rest = _by_text(choices, rest.lstrip("-–—: "))
    if of_rest is not None and of_rest != letter:
        return None
    if not stands_off and of_rest is None and not re.match(r"(?:is|because|since|as|[-–—,;:])(?!\w)", rest):
        # "A cell divides": a word, not a letter, unless the answer was announced
        return letter if direct["lead"] and direct["letter"].isupper() else _by_text(choices, body)
    said = f"{direct['close']}{rest}"
    others = {
        *re.findall(rf"(?:\b(?:or|and)\s+|[/,&]\s*|\(|{_NAMED})([{letters}])(?=[\s).,:/]|$)", said),
        *re.findall(rf"^\s*([{letters}])(?=[).:]|\s*$)", said, re.MULTILINE),
    }
    return letter if others <= {letter} else None


def _by_text(choices: Sequence[str], text: str) -> str | None:
    """The letter of the one choice whose text this is, first line or first sentence."""
    said = {_plain(text), _plain(text.partition("\n")[0]), _plain(first_sentence(text))}
    found = [letter for letter, choice in zip(LETTERS, choices, strict=False) if _plain(choice) in said]
    return found[0] if len(found) == 1 else None


def _plain(text: str) -> str:
    return " ".join(fold(text).casefold().strip(" \t\n.,;:!?\"'()").split())
