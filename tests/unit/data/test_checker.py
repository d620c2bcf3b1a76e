"""Hard cases of the rule that decides whether an answer is right."""

from __future__ import annotations

import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from metadeploy.data.checker import chosen_letter, first_sentence, fold, is_correct
from metadeploy.data.question import Question


def right(answers: str, text: str, *, question: str = "?", category: str = "any") -> bool:
    return is_correct(Question(question, tuple(answers.split("/")), category), text)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Paris. It lies on the Seine.", "Paris."),
        ("  It is 3.5 metres!\nReally.", "It is 3.5 metres!"),
        ("It is St. John's. It is small.", "It is St. John's."),
        ("The capital of the U.S. is Washington, D.C. now. Yes.", "The capital of the U.S. is Washington, D.C. now."),
        ("1. Paris. 2. Rome.", "1. Paris."),
        ('It is "soft." It is not hard.', 'It is "soft."'),
        ("The domain is .uk", "The domain is .uk"),
        ("First line\nsecond", "First line"),
        ("", ""),
    ],
)
def test_first_sentence(text: str, expected: str) -> None:
    assert first_sentence(text) == expected


@pytest.mark.parametrize(
    ("answers", "text", "expected"),
    [
        ("Croatia", "It is the capital of CROATIA.", True),
        ("Croatia", "It is Serbia. Not Croatia.", False),
        ("Croatia", "Croatia's capital is Zagreb.", True),
        ("Croatia", "Croatia’s capital is Zagreb.", True),
        ("Niger", "It is the capital of Nigeria.", False),
        ("Guinea", "It is Guinea-Bissau.", False),
        ("Guinea", "It is Equatorial Guinea.", False),
        ("Guinea", "It is in Guinea, not in Equatorial Guinea.", True),
        ("Papua New Guinea", "It is Papua New Guinea.", True),
        ("Congo/Democratic Republic of the Congo", "It is the Democratic Republic of the Congo.", True),
        ("Congo/Republic of the Congo", "It is the Democratic Republic of the Congo.", False),
        ("South Korea/Korea", "It is in North Korea.", False),
        ("South Korea/Korea", "It is in South Korea.", True),
        ("Virginia", "Richmond is in West Virginia.", False),
        ("West Virginia", "Charleston is in West Virginia.", True),
        ("United States/America", "It is in South America.", False),
        ("hot", "The word is red-hot.", False),
        ("was", "It wasn't.", False),
        ("can", "I can't.", False),
        ("D'Ivoire", "Côte d'Ivoire", True),
        ("Ivoire", "Côte d'Ivoire", False),
        ("easy/soft", 'It is "soft."', True),
        ("St. John's", "The capital is St. John's.", True),
        (".uk", "The domain is .uk.", True),
        (".uk", "The domain is .ukr.", False),
        ("US/USA", "Let us see.", False),
        ("US/USA", "It is in the US.", True),
        ("went", "The past tense of go is goed.", False),
        ("went", "", False),
        ("Paris", "—Paris—", True),
        ("Paris", "**Paris**", True),
    ],
)
def test_words(answers: str, text: str, expected: bool) -> None:
    assert right(answers, text) is expected


@pytest.mark.parametrize(
    ("answer", "text"),
    [
        ("Bogotá", "BOGOTA"),
        ("Bogota", "It is Bogotá."),
        ("Łódź", "Lodz"),
        ("Malmö", "Malmo\u0308"),
        ("Tromsø", "tromso"),
        ("Nuku'alofa", "Nuku\u02bbalofa is the capital."),
        ("Türkiye", "Turkiye"),
        ("São Tomé", "sao tome"),
    ],
)
def test_accents_do_not_matter(answer: str, text: str) -> None:
    assert right(answer, text)


@pytest.mark.parametrize(
    ("answer", "text", "expected"),
    [
        ("He", "The symbol is He.", True),
        ("He", "he said so", False),
        ("Co", "It is CO.", False),
        ("Co", "It is co.", False),
        ("C", "It is C", True),
    ],
)
def test_chemical_symbols_keep_their_case(answer: str, text: str, expected: bool) -> None:
    assert right(answer, text, category="element_symbol") is expected
    assert right(answer, text.swapcase(), category="past")


@pytest.mark.parametrize(
    ("answer", "text", "expected"),
    [
        ("C", "The letter that comes after B is C.", True),
        ("C", 'It is "c".', True),
        ("C", "none", False),
        ("A", "A letter that comes before B is Z.", False),
        ("A", "It is a consonant.", False),
        ("A", "It is A.", True),
        ("A", 'The letter "a" comes first.', True),
        ("I", "I think it is H.", False),
        ("I", "I", True),
    ],
)
def test_letters_are_no_words(answer: str, text: str, expected: bool) -> None:
    assert right(answer, text) is expected


@pytest.mark.parametrize(
    ("answer", "text", "whole", "first"),
    [
        ("42", "She sold 20 clips and then 22 more. So in all she sold 42 clips.", True, False),
        ("42", "Let me think.\nThe answer is 42.", True, False),
        ("42", "42 less 2 is 40.\n\nThe answer is 40. I hope that this helps!", False, True),
        ("42", "The answer is 42. I hope that this helps!", True, True),
        ("42", "Let me think.", False, False),
        ("42", "", False, False),
        ("Paris", "Let me think. France's capital is Paris.", True, False),
        ("Paris", "Let me think. It is not Paris.", False, False),
    ],
)
def test_whole_answers_and_first_sentences(answer: str, text: str, whole: bool, first: bool) -> None:
    question = Question("?", (answer,), "any")
    assert is_correct(question, text, whole=True) is whole
    assert is_correct(question, text) is first


@pytest.mark.parametrize(
    ("answer", "text", "expected"),
    [
        ("7,225", "It is 7225.", True),
        ("7225", "It is 7,225.", True),
        ("7225", "It is 7225.0", True),
        ("7225", "It is 7,225.5", False),
        ("12", "It is 12.", True),
        ("12", "12.5", False),
        ("12", "-12", False),
        ("12", "−12", False),
        ("12", "It is 112.", False),
        ("12", "It is 12,500.", False),
        ("12", "It is 1,012.", False),
        ("12", "at 12:30", False),
        ("12", "on 12/5", False),
        ("12", "the 12th", False),
        ("12", "15 - 3 = 12", True),
        ("12", "15-3=12", True),
        ("12", "24-12", False),
        ("12", "1, 12, 3", True),
        ("12", "It is $12.", True),
        ("12", "twelve", True),
        ("12", "Twelve!", True),
        ("20", "twenty", True),
        ("20", "twenty-one", False),
        ("1", "twenty-one", False),
        ("21", "twenty-one", False),
        ("+54", "The code is +54.", True),
        ("54", "The code is +54.", True),
        ("54", "The code is 549.", False),
        ("-5", "It is -5.", True),
        ("-5", "It is 5.", False),
        ("0.5", "It is 0.5.", True),
    ],
)
def test_numbers_are_compared_by_value(answer: str, text: str, expected: bool) -> None:
    assert right(answer, text) is expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("45", True),
        ("12", False),
        ("45 is larger than 12.", True),
        ("12 is larger than 45.", False),
        ("The larger number between 12 and 45 is 45.", True),
        ("The larger number between 12 and 45 is 12.", False),
        ("Between 12 and 45, 45 is larger.", True),
        ("12 or 45", False),
        ("Not 12 but 45.", True),
        ("forty", False),
    ],
)
def test_of_numbers_in_the_question_the_first_one_counts(text: str, expected: bool) -> None:
    assert right("45", text, question="Which number is larger, 12 or 45?") is expected


@pytest.mark.parametrize(
    ("answer", "text", "expected"),
    [
        ("Paris", "It is not Paris.", False),
        ("Paris", "It isn't Paris.", False),
        ("Paris", "It isn’t Paris.", False),
        ("Slovenia", "The country is Croatia, not Slovenia.", False),
        ("Croatia", "The country is Croatia, not Slovenia.", True),
        ("Slovenia", "It is not located in Slovenia.", False),
        ("Slovenia", "It is not the capital city of Slovenia.", False),
        ("Paris", "It is neither Paris nor Rome.", False),
        ("Rome", "It is neither Paris nor Rome.", False),
        ("Rome", "It is Paris rather than Rome.", False),
        ("Rome", "It is Paris instead of Rome.", False),
        ("Bonn", "It is no longer Bonn.", False),
        ("Paris", "It is not only Paris.", True),
        ("Paris", "I am not sure, but Paris.", True),
        ("Paris", "It is not Rome but Paris.", True),
        ("Paris", "Not Paris? Paris.", False),
        ("Paris", "Not Rome, Paris it is, not Lyon.", True),
        ("12", "It is not 12.", False),
        ("12", "It is not 13 but 12.", True),
    ],
)
def test_a_negated_answer_does_not_count(answer: str, text: str, expected: bool) -> None:
    assert right(answer, text) is expected


CHOICES = ("Rome", "Paris", "a cell", "It is not known.")


@pytest.mark.parametrize(
    ("text", "letter"),
    [
        ("B", "B"),
        ("b", "B"),
        (" B\n", "B"),
        ("(B)", "B"),
        ("[B]", "B"),
        ("B.", "B"),
        ("B)", "B"),
        ("**B**", "B"),
        ("B) Paris", "B"),
        ("B. Paris", "B"),
        ("B: Paris.", "B"),
        ("B Paris", "B"),
        ("B - Paris", "B"),
        ("B because it is.", "B"),
        ("B is right.", "B"),
        ("B. Paris is the capital of France. Rome is not.", "B"),
        ("B. Paris\n\nA city on the Seine, and the capital.", "B"),
        ("B\n\nThe capital of France is Paris.", "B"),
        ("B \nBecause it is. The answer is B.", "B"),
        ("Answer: B", "B"),
        ("The answer is B.", "B"),
        ("The correct answer is (B).", "B"),
        ("The correct answer is: B) Paris", "B"),
        ("So the best answer is B", "B"),
        ("Option B", "B"),
        ("Paris", "B"),
        ("paris.", "B"),
        ("Paris. It lies on the Seine.", "B"),
        ("A cell", "C"),
        ("It is not known.", "D"),
        ("A cell divides.", None),
        ("A", "A"),
        ("B or C", None),
        ("B and C", None),
        ("B, C", None),
        ("(B) or (C)", None),
        ("B/C", None),
        ("B. No wait, C", None),
        ("B. No, it is C.", None),
        ("B.\n\nAnswer: C", None),
        ("B. The correct answer is (C).", None),
        ("B\nC", None),
        ("A. Rome\nB. Paris\nC. a cell", None),
        ("B) Rome", None),
        ("E", None),
        ("Both", None),
        ("The answer is not B.", None),
        ("I do not know.", None),
        ("Rome or Paris", None),
        ("Because", None),
        ("", None),
    ],
)
def test_the_letter_of_a_choice(text: str, letter: str | None) -> None:
    assert chosen_letter(CHOICES, text) == letter
    question = Question("?", ("B",), "mmlu", choices=CHOICES)
    assert is_correct(question, text) is (letter == "B")


def test_choices_of_the_same_text_are_ambiguous() -> None:
    assert chosen_letter(("Paris", "Paris", "Rome"), "Paris") is None
    assert chosen_letter(("Paris", "Paris", "Rome"), "B") == "B"


WORD = st.text(string.ascii_lowercase, min_size=2, max_size=10)


@given(word=WORD, before=WORD, after=WORD)
def test_only_whole_words_match(word: str, before: str, after: str) -> None:
    assert right(word, f"{before.upper()}: {word.upper()}, {after}") or before in ("not", "nor", "never", "neither")
    assert not right(word, f"{before}{word}{after}")
    assert not right(word, f"{before}-{word}") or word in before
    assert not right(word, f"not {word}")


@given(st.integers(0, 10**9), st.integers(0, 10**9))
def test_numbers_are_right_exactly_when_equal(one: int, other: int) -> None:
    assert right(str(one), f"It is {other:,}.") is (one == other)
    assert right(f"{one:,}", f"It is {one}")


@given(st.text())
def test_any_text_can_be_judged(text: str) -> None:
    assert not right("xyzzyq", text.replace("xyzzyq", ""))
    assert fold(fold(text)) == fold(text)
    assert chosen_letter(CHOICES, text) in (None, "A", "B", "C", "D")
