"""The demo's questions, scores and output."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner

from metadeploy.cli import app
from metadeploy.cli import demo as cli
from metadeploy.data import Question
from metadeploy.demo.answers import Answer, Pair, Share, ask, score
from metadeploy.demo.assets import QWEN2_5_CODER
from metadeploy.demo.questions import KINDS, load_questions, pick
from metadeploy.runtime import GenerationResult, Timings

QUESTIONS = load_questions()
REFUSAL = "I'm not confident enough to answer this question accurately."


def test_the_shipped_questions_are_complete() -> None:
    assert len(QUESTIONS) == 300
    assert len({question.question for question in QUESTIONS}) == 300
    assert {question.category for question in QUESTIONS} <= set(KINDS)
    assert len({question.category for question in QUESTIONS}) >= 30
    assert all(question.answers and all(question.answers) for question in QUESTIONS)


@pytest.mark.parametrize("count", [1, 12, 28, 57, 300])
def test_questions_are_spread_over_the_kinds(count: int) -> None:
    chosen = pick(QUESTIONS, count, seed=5)
    assert len(set(chosen)) == count
    counts = Counter(question.category for question in chosen)
    available = Counter(question.category for question in QUESTIONS)
    most = max(counts.values())
    assert all(counts[kind] >= min(most - 1, available[kind]) for kind in available)


def test_a_seed_always_draws_the_same_questions() -> None:
    assert pick(QUESTIONS, 12, seed=1) == pick(QUESTIONS, 12, seed=1)
    assert pick(QUESTIONS, 12, seed=1) == pick(QUESTIONS, 40, seed=1)[:12]
    assert pick(QUESTIONS, 12, seed=1) != pick(QUESTIONS, 12, seed=2)


def test_proportions() -> None:
    two_of_three = Share(2, 3)
    assert two_of_three.value == pytest.approx(2 / 3)
    # Wilson's interval from R's prop.test(2, 3, correct = FALSE)
    assert two_of_three.interval == pytest.approx((0.2076596, 0.9385081), abs=1e-4)
    assert Share(0, 0).value is None
    assert Share(0, 0).interval is None
    low, high = Share(5, 5).interval or (0.0, 0.0)
    assert 0.5 < low < high == 1.0


def pair(base: bool, doubter: bool | None, category: str = "capital") -> Pair:
    """Return a pair of answers; None: the Doubter declines."""
    return Pair(
        Question("Where [b]is[/b] it?", ("here", "there"), category),
        Answer("It is here." if base else "It is not", base, False),
        Answer(REFUSAL, False, True) if doubter is None else Answer("It is there.", doubter, False),
    )


PAIRS = [pair(True, True), pair(True, None), pair(False, None), pair(False, None), pair(False, False)]


def test_scores() -> None:
    scores = score(PAIRS)
    assert scores.base_accuracy == Share(2, 5)
    assert scores.coverage == Share(2, 5)
    assert scores.selective_accuracy == Share(1, 2)
    assert scores.errors_declined == Share(2, 3)
    assert scores.right_declined == Share(1, 2)


class FakeLlama:
    """Answers 'Paris' without the wrapper, and declines with it unless its gain is 0."""

    def generate(
        self, prompt: str, *, max_tokens: int, inject: bool = True, gain: float | None = None
    ) -> GenerationResult:
        declines = inject and gain != 0
        text = REFUSAL if declines else f"{prompt} Paris."
        return GenerationResult(
            text, (), declines, "stop", None, Timings(0, 0, 0, 0, "none", 0, 1, 0, 1, 0), gain or 0.0
        )


@pytest.mark.parametrize("gain", [1.0, 0.0])
def test_both_are_asked(gain: float) -> None:
    question = Question("The capital of France is", ("Paris",), "capital")
    (answered,) = ask(FakeLlama(), [question], gain=gain)  # type: ignore[arg-type]
    assert answered.base == Answer("The capital of France is Paris.", True, False)
    assert answered.doubter == (Answer(REFUSAL, False, True) if gain else answered.base)


# -- the command, without the models; tests/integration/test_demo.py runs it with them


@pytest.fixture
def no_models(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Pair]]:
    pairs = list(PAIRS)
    monkeypatch.setattr(cli, "demo_files", lambda _: (Path("/a b/base.gguf"), Path("/a b/doubter.gguf")))
    monkeypatch.setattr(cli, "_ask", lambda *_: (pairs, REFUSAL))
    yield pairs


def run(*arguments: str, code: int = 0) -> str:
    result = CliRunner().invoke(app, ["demo", *arguments])
    assert result.exit_code == code, result.output
    return result.output


@pytest.mark.usefixtures("no_models")
def test_text_output() -> None:
    output = run("-n", "5")
    for part in (
        "Where [b]is[/b] it?",
        "here / there",
        "✓ It is here.",
        "✗ It is not …",
        "– declined",
        f"– declined: {REFUSAL}",
        "metadeploy demo --all asks 300",
        "llama-meta-generate -m '/a b/base.gguf' --meta '/a b/doubter.gguf' -p '",
    ):
        assert part in output
    assert re.search(r"selective accuracy: right of the answered +1 of 2 +50% +9% to 91%", output)
    assert re.search(r"declined of the base's errors +2 of 3 +67%", output)


@pytest.mark.usefixtures("no_models")
def test_another_base() -> None:
    output = run("-n", "5", "--base", QWEN2_5_CODER.key)
    assert "metadeploy demo --base qwen2.5-coder-0.5b --all asks 300" in output
    assert QWEN2_5_CODER.remark in output
    document = json.loads(run("--json", "--base", QWEN2_5_CODER.key))
    assert document["base"]["name"] == "Qwen2.5-Coder-0.5B-Instruct"


def test_many_questions_are_shown_by_kind(no_models: list[Pair]) -> None:
    no_models *= 60
    no_models.append(pair(True, None, "us_abbreviation"))
    output = run("--all")
    assert re.search(rf"{KINDS['capital']} +300 +120 +120 +60\s", output)
    assert re.search(r"abbreviations of US states +1 +1 +0 +0\s", output)
    assert "Where" not in output


@pytest.mark.usefixtures("no_models")
def test_json_is_all_there_is() -> None:
    document = json.loads(run("--json"))
    assert document["scores"]["coverage"] == {
        "hits": 2,
        "total": 5,
        "value": 0.4,
        "interval": list(Share(2, 5).interval or ()),
    }
    assert document["questions"][1]["doubter"] == {"text": REFUSAL, "right": False, "declined": True, "doubt": None}
    assert document["questions"][1]["accepted"] == ["here", "there"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--all", "-n", "3"], "not both"),
        (["-n", "301"], "there are 300 questions"),
        (["-n", "0"], "--questions"),
        (["--gain", "nan"], "not a finite number"),
        (["--base", "gpt"], "'smollm2-135m', 'qwen2.5-coder-0.5b'"),
    ],
)
def test_wrong_usage(arguments: list[str], message: str) -> None:
    in_one_line = re.sub(r"[\s│]+", " ", run(*arguments, code=2))
    assert message in in_one_line
