"""Policies for doubtful answers, in Python and in llama-meta-generate: answers that are kept, withheld or marked."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from metadeploy import MetaLlama
from metadeploy.errors import Error
from metadeploy.sidecar import rewriting
from metadeploy.sidecar.rewriting import write_verdict
from metadeploy.sidecar.verdict import ErrorGuarantee
from support.program import REFUSAL, Program, Run, TinyCase, write_tiny_case
from support.random_verdict import random_verdict

PROMPTS = ["alpha", "beta gamma", "delta", "epsilon zeta", "eta"]


@pytest.fixture(scope="module")
def judged(tmp_path_factory: pytest.TempPathFactory) -> TinyCase:
    """A tiny base, and a sidecar with a verdict head whose verdicts on `PROMPTS` differ."""
    case = write_tiny_case(tmp_path_factory.mktemp("judged"))
    write_verdict(case.sidecar, random_verdict(32, prompt_layers=(1,), answer_layers=(0, 2)), case.sidecar)
    return case


@pytest.fixture(scope="module")
def llm(judged: TinyCase) -> Any:
    with judged.load(n_parallel=2) as model:
        yield model


@pytest.fixture(scope="module")
def middle(llm: MetaLlama) -> float:
    """A limit between the verdicts: some answers are above it."""
    verdicts = sorted(verdict(llm, prompt) for prompt in PROMPTS)
    assert verdicts[-1] - verdicts[0] > 0.01
    return (verdicts[1] + verdicts[2]) / 2


def verdict(llm: MetaLlama, prompt: str) -> float:
    result = llm.generate(prompt, max_tokens=20, inject=False)
    assert result.verdict is not None and result.verdict.p_wrong is not None
    return result.verdict.p_wrong


def test_answers_above_the_limit_become_the_refusal(llm: MetaLlama, middle: float) -> None:
    n_withheld = 0
    for prompt in PROMPTS:
        base = llm.generate(prompt, max_tokens=20, inject=False)
        result = llm.generate(prompt, max_tokens=20, max_p_wrong=middle)
        assert result.verdict is not None and base.verdict is not None
        assert result.verdict.p_wrong == base.verdict.p_wrong and result.gain == 0
        assert result.verdict.too_doubtful == (result.verdict.p_wrong > middle)
        if result.verdict.too_doubtful:
            n_withheld += 1
            assert (result.text, result.abstained, result.finish_reason) == (REFUSAL, True, "stop")
            assert result.withheld is not None and base.text.startswith(result.withheld)
            assert result.verdict.sentences == base.verdict.sentences[: len(result.verdict.sentences)]
        else:
            assert (result.text, result.withheld, result.abstained) == (base.text, None, False)
    assert 0 < n_withheld < len(PROMPTS)


def test_a_limit_overrides_injection_and_threshold(llm: MetaLlama) -> None:
    base = llm.generate("alpha", max_tokens=20, inject=False)
    result = llm.generate("alpha", max_tokens=20, inject=True, gain=3.0, doubt_threshold=0.0, max_p_wrong=1.0)
    assert (result.text, result.gain, result.doubt) == (base.text, 0, None)


def test_huge_weights_give_no_verdict(judged: TinyCase, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file may hold finite weights whose sums overflow; NaN is no probability, and JSON has none."""
    head = random_verdict(32, prompt_layers=(1,), answer_layers=(2,))
    head.tensors["verdict.hidden.weight"][:] = 3e38
    head.tensors["verdict.input.scale"][:] = 3e38  # inputs are clipped to -8 and 8
    monkeypatch.setattr(rewriting, "is_matrix", lambda *_: False)  # F16 has no such weights
    path = write_verdict(judged.sidecar, head, tmp_path / "huge.gguf")
    with MetaLlama(judged.base, path, n_threads=1) as llm:
        for prompt in PROMPTS:
            result = llm.generate(prompt, max_tokens=8, max_p_wrong=0.0)
            assert result.verdict is not None
            assert result.verdict.p_wrong is None and result.verdict.too_doubtful
            assert result.withheld is not None and result.text == REFUSAL


def test_flagged_answers_stay(llm: MetaLlama, middle: float) -> None:
    for prompt in PROMPTS:
        base = llm.generate(prompt, max_tokens=20, inject=False)
        result = llm.generate(prompt, max_tokens=20, max_p_wrong=middle, on_doubt="flag")
        assert (result.text, result.withheld, result.abstained) == (base.text, None, base.abstained)
        assert result.verdict is not None and result.verdict.too_doubtful == (verdict(llm, prompt) > middle)


def test_a_stream_shows_nothing_of_a_withheld_answer(llm: MetaLlama, middle: float) -> None:
    for prompt in PROMPTS:
        chunks = list(llm.stream(prompt, max_tokens=20, max_p_wrong=middle, logprobs=0))
        result = chunks[-1].result
        assert result is not None
        assert "".join(chunk.text for chunk in chunks) == result.text
        tokens = [token for chunk in chunks for token in chunk.token_ids]
        logprobs = [item for chunk in chunks for item in chunk.logprobs or ()]
        if result.withheld is not None:
            assert (tokens, logprobs) == ([], [])
        else:
            assert tuple(tokens) == result.token_ids and len(logprobs) == len(tokens)
        assert all(chunk.p_wrong is None for chunk in chunks if chunk.p_wrong != result.verdict.p_wrong)  # type: ignore[union-attr]


def test_a_batch_gives_what_single_calls_give(llm: MetaLlama, middle: float) -> None:
    options: dict[str, Any] = {"max_tokens": 20, "max_p_wrong": middle}
    answers = list(llm.generate_batch(PROMPTS, **options))
    for prompt, answer in zip(PROMPTS, answers, strict=True):
        result = llm.generate(prompt, **options)
        assert answer.result is not None
        assert (answer.result.text, answer.result.withheld) == (result.text, result.withheld)


def test_openai_answers_have_the_verdict(llm: MetaLlama, middle: float) -> None:
    for prompt in PROMPTS:
        result = llm.generate(prompt, max_tokens=20, max_p_wrong=middle)
        messages = [{"role": "user", "content": prompt}]
        options: dict[str, Any] = {"max_tokens": 20, "max_p_wrong": middle}
        choice = llm.create_chat_completion(messages, **options)["choices"][0]  # type: ignore[arg-type]
        *_, last = llm.create_chat_completion(messages, stream=True, **options)  # type: ignore[arg-type]
        assert result.verdict is not None
        for answer in (choice, last["choices"][0]):
            assert answer["verdict"]["p_wrong"] == result.verdict.p_wrong
            assert answer.get("withheld") == result.withheld
            assert answer["abstained"] == result.abstained
        assert choice["message"]["content"] == result.text


def test_an_error_rate_takes_the_threshold_of_its_guarantee(llm: MetaLlama) -> None:
    for max_error, threshold in ((0.25, 0.25), (0.3, 0.25), (0.5, 0.75), (1.0, 0.75)):
        for prompt in PROMPTS:
            result = llm.generate(prompt, max_tokens=20, max_error=max_error)
            assert result.verdict is not None and result.verdict.p_wrong is not None
            assert result.verdict.too_doubtful == (result.verdict.p_wrong > threshold)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"max_error": 0.2}, "no error rate of 0.2 or less is guaranteed, the sidecar's guarantees are 0.25, 0.5"),
        ({"max_error": 0.5, "max_p_wrong": 0.5}, "max_error and max_p_wrong are both given"),
    ],
)
def test_limits_that_cannot_be(llm: MetaLlama, options: dict[str, Any], expected: str) -> None:
    with pytest.raises(Error, match=re.escape(expected)):
        llm.generate("hello", max_tokens=2, **options)


@pytest.mark.parametrize(
    "options", [{"max_error": 1.5}, {"max_p_wrong": -0.1}, {"max_p_wrong": float("nan")}, {"on_doubt": "replace"}]
)
def test_values_that_cannot_be(llm: MetaLlama, options: dict[str, Any]) -> None:
    with pytest.raises((ValueError, TypeError), match=next(iter(options))):
        llm.generate("hello", max_tokens=2, **options)


def test_a_sidecar_without_a_head(tmp_path: Path) -> None:
    case = write_tiny_case(tmp_path)
    with case.load() as llm:
        assert llm.generate("hello", max_tokens=4).verdict is None
        with pytest.raises(Error, match="the sidecar has no verdict head"):
            llm.generate("hello", max_tokens=2, max_p_wrong=0.5)
        write_verdict(case.sidecar, random_verdict(32, prompt_layers=(1,), answer_layers=(0, 2)), case.sidecar)
        llm.attach(case.sidecar)
        assert llm.generate("hello", max_tokens=4).verdict is not None
        llm.detach()
        assert llm.generate("hello", max_tokens=4).verdict is None


def test_no_verdict_while_other_layers_are_tapped(llm: MetaLlama) -> None:
    before = verdict(llm, "hello")
    llm.tap_answers([0], [1])
    result = llm.generate("hello", max_tokens=20, inject=False)
    assert result.verdict is None and result.features is not None
    llm.tap_answers()
    result = llm.generate("hello", max_tokens=20, inject=False)
    assert result.verdict is not None and result.verdict.p_wrong == before and result.features is None


def test_a_refusal_has_no_verdict(llm: MetaLlama) -> None:
    """Only answers are judged; with a limit, the base's own refusal is not withheld either."""
    result = llm.generate("hello", max_tokens=4, doubt_threshold=0.0)
    assert result.verdict is None or not result.abstained


# --- llama-meta-generate ---------------------------------------------------------------------------------------------


@pytest.fixture
def program(judged: TinyCase, tiny: Program) -> Program:
    return Program(tiny.path, judged.base, judged.sidecar)


def result_of(run: Run) -> dict[str, Any]:
    assert run.returncode == 0, run.stderr
    parsed: dict[str, Any] = json.loads(run.stdout)
    return parsed


def test_the_program_gives_the_same(llm: MetaLlama, middle: float, program: Program) -> None:
    for prompt in PROMPTS:
        expected = llm.generate(prompt, max_tokens=20, max_p_wrong=middle)
        flags = ("-p", prompt, "-n", "20", "-fa", "off", "--max-p-wrong", repr(middle))
        answer = result_of(program(*flags, "--json"))
        assert expected.verdict is not None
        assert answer["text"] == expected.text and answer.get("withheld") == expected.withheld
        assert answer["verdict"]["p_wrong"] == pytest.approx(expected.verdict.p_wrong, abs=1e-6)
        assert answer["verdict"]["too_doubtful"] == expected.verdict.too_doubtful
        spans = [(sentence["start"], sentence["end"]) for sentence in answer["verdict"]["sentences"]]
        assert spans == [(sentence.start, sentence.end) for sentence in expected.verdict.sentences]
        if expected.withheld is not None:
            assert program(*flags).stdout == REFUSAL + "\n"
        flagged = result_of(program(*flags, "--on-doubt", "flag", "--json"))
        assert flagged["verdict"]["too_doubtful"] == expected.verdict.too_doubtful and "withheld" not in flagged


@pytest.mark.parametrize(
    ("flags", "status", "expected"),
    [
        (["--max-error", "0.2"], 1, "the sidecar's guarantees are 0.25, 0.5"),
        (["--max-error", "x"], 2, "--max-error is 'x', expected a number from 0 to 1"),
        (["--max-p-wrong", "2"], 2, "--max-p-wrong is '2', expected a number from 0 to 1"),
        (["--on-doubt", "replace"], 2, "--on-doubt is 'replace', expected withhold or flag"),
        (["--no-meta", "--max-error", "0.5"], 2, "--max-error needs the wrapper"),
    ],
)
def test_flags_that_cannot_be(flags: list[str], status: int, expected: str, program: Program) -> None:
    run = program("-p", "hello", "-n", "2", *flags)
    assert (run.returncode, run.stdout) == (status, "")
    assert expected in run.stderr


def test_guarantees_are_rounded_as_the_file_stores_them(judged: TinyCase, tmp_path: Path) -> None:
    """0.15 in F32 is a little more than 0.15, which must not refuse --max-error 0.15."""
    head = random_verdict(32, prompt_layers=(1,), answer_layers=(2,), guarantees=(ErrorGuarantee(0.15, 0.5, 0.5),))
    path = write_verdict(judged.sidecar, head, tmp_path / "rounded.gguf")
    with MetaLlama(judged.base, path, n_threads=1) as llm:
        assert llm.generate("hello", max_tokens=8, max_error=0.15).verdict is not None
