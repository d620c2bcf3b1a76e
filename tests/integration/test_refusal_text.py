"""Another refusal text than the sidecar's: in Python, in the program, and in the file."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from metadeploy import Error, MetaLlama, SidecarError
from metadeploy.sidecar import DEFAULT_REFUSAL_TEXT, read_sidecar, write_sidecar
from support.program import Program, TinyCase

PROMPT = "What is it?"
#: Its first byte, and so its first token for the tiny base, differs from the default text's.
OTHER = "We don't have enough information to answer that reliably."
#: An answer counts as declined if it begins with the first words of this text, at least three.
FEW_WORDS = ("No.", "", "  ", "I cannot.", "No idea. I'm not confident enough.", "... --- !!!")


@pytest.fixture(scope="module")
def calibrated(tiny_case: TinyCase, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny sidecar with the tokens and a bias for its own refusal."""
    source = read_sidecar(tiny_case.sidecar)
    path = tmp_path_factory.mktemp("calibrated") / "sidecar.gguf"
    write_sidecar(path, replace(source.config, refusal_token_ids=(7, 8), refusal_bias=2.0), source.tensors)
    return path


@pytest.fixture(scope="module")
def renamed(tiny_case: TinyCase, calibrated: Path) -> Path:
    """The same sidecar with the other text in the file, and therefore without tokens and a bias."""
    source = read_sidecar(tiny_case.sidecar)
    path = calibrated.with_name("renamed.gguf")
    write_sidecar(path, replace(source.config, refusal_text=OTHER), source.tensors)
    return path


@pytest.fixture(scope="module")
def anchor(tiny_case: TinyCase, tmp_path_factory: pytest.TempPathFactory) -> Path:
    source = read_sidecar(tiny_case.sidecar)
    path = tmp_path_factory.mktemp("anchor") / "anchor.gguf"
    write_sidecar(path, replace(source.config, kind="goal_anchor"), source.tensors)
    return path


Answer = tuple[list[int], float | None, bool]


def answer(llm: MetaLlama, **options: Any) -> Answer:
    result = llm.generate(PROMPT, max_tokens=12, **options)
    return result.token_ids, result.doubt, result.abstained


@pytest.fixture
def load(tiny_case: TinyCase) -> Iterator[Callable[..., MetaLlama]]:
    opened: list[MetaLlama] = []

    def make(sidecar: Path | None, **options: Any) -> MetaLlama:
        opened.append(MetaLlama(tiny_case.base, sidecar, n_threads=1, flash_attn=False, **options))
        return opened[-1]

    yield make
    for llm in opened:
        llm.close()


def test_the_option_acts_like_the_text_in_the_file(
    load: Callable[..., MetaLlama], calibrated: Path, renamed: Path
) -> None:
    expected = answer(load(renamed))
    llm = load(calibrated, refusal_text=OTHER)
    assert (llm.refusal_text, answer(llm)) == (OTHER, expected)
    llm.attach(calibrated)
    own = answer(llm)
    assert llm.refusal_text == DEFAULT_REFUSAL_TEXT
    assert own[1] != expected[1], "doubt refers to another token and has a bias"
    llm.attach(calibrated, refusal_text=OTHER)
    assert (llm.refusal_text, answer(llm)) == (OTHER, expected)
    llm.attach(calibrated, refusal_text=None)
    assert (llm.refusal_text, answer(llm)) == (DEFAULT_REFUSAL_TEXT, own)
    # with the wrapper's own text, its tokens and bias stay
    llm.attach(calibrated, refusal_text=DEFAULT_REFUSAL_TEXT)
    assert answer(llm) == own


def test_doubt_is_of_the_texts_first_token(load: Callable[..., MetaLlama], calibrated: Path) -> None:
    llm = load(calibrated, refusal_text=OTHER)
    token = llm.tokenize(OTHER[0], add_special=False)[0]
    assert answer(llm, doubt_threshold=0.0)[0][0] == token
    llm.attach(calibrated, refusal_text="Überhaupt keine Ahnung habe ich.")
    assert answer(llm, doubt_threshold=0.0)[0][0] == llm.tokenize("Ü", add_special=False)[0]


@pytest.mark.parametrize("text", FEW_WORDS)
def test_texts_that_cannot_be_a_refusal(
    text: str, load: Callable[..., MetaLlama], calibrated: Path, tiny_case: TinyCase
) -> None:
    with pytest.raises(ValueError, match=r"refusal.text .*(has .* in its first sentence|expected a text that is not)"):
        load(calibrated, refusal_text=text)
    llm = load(calibrated)
    before = answer(llm)
    with pytest.raises(ValueError, match=r"refusal.text .*(has .* in its first sentence|expected a text that is not)"):
        llm.attach(tiny_case.sidecar, refusal_text=text)
    assert answer(llm) == before, "the old text stays"


def test_values_that_are_not_text(load: Callable[..., MetaLlama], calibrated: Path) -> None:
    llm = load(None)
    for wrong in (3, b"We do not know that.", ["We do not know that."], True):
        with pytest.raises(TypeError, match=r"refusal_text is .*, expected a text"):
            load(calibrated, refusal_text=wrong)
        with pytest.raises(TypeError, match=r"refusal_text is .*, expected a text"):
            llm.attach(calibrated, refusal_text=wrong)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="expected a text that is not empty"):
        llm.attach(calibrated, refusal_text="We do \ud800 not know that.")
    with pytest.raises(ValueError, match="refusal_text is given without a sidecar, expected one"):
        load(None, refusal_text=OTHER)


def test_wrappers_that_do_not_decline(load: Callable[..., MetaLlama], anchor: Path, calibrated: Path) -> None:
    with pytest.raises(Error, match="a wrapper of kind 'goal_anchor' has no refusal, expected a doubter"):
        load(anchor, refusal_text=OTHER)
    llm = load(calibrated)
    before = answer(llm)
    with pytest.raises(Error, match="a wrapper of kind 'goal_anchor' has no refusal, expected a doubter"):
        llm.attach(anchor, refusal_text=OTHER)
    with pytest.raises(SidecarError):
        llm.attach(calibrated.with_name("absent.gguf"), refusal_text=OTHER)
    assert answer(llm) == before


# --- the program -----------------------------------------------------------------------------------------------------


@pytest.fixture
def program(tiny: Program, calibrated: Path) -> Program:
    return replace(tiny, meta=calibrated)


def asked(program: Program, *flags: str, env: dict[str, str] | None = None) -> tuple[Any, ...]:
    run = program("-p", PROMPT, "-n", "12", "--json", "-fa", "off", *flags, env=env)
    assert run.returncode == 0, run.stderr
    output = json.loads(run.stdout)
    return output["text"], output["doubt"], output["abstained"]


def test_flag_and_variable(program: Program, renamed: Path) -> None:
    expected, own = asked(replace(program, meta=renamed)), asked(program)
    assert expected[1] != own[1]
    assert asked(program, "--refusal-text", OTHER) == expected
    assert asked(program, env={"LLAMA_ARG_REFUSAL_TEXT": OTHER}) == expected
    assert asked(program, "--refusal-text", DEFAULT_REFUSAL_TEXT, env={"LLAMA_ARG_REFUSAL_TEXT": OTHER}) == own


def test_wrong_usage_of_the_flag(program: Program, anchor: Path) -> None:
    for text in FEW_WORDS:
        run = program("-p", "x", "--refusal-text", text)
        assert (run.returncode, run.stdout) == (2, "")
        assert f"--refusal-text '{text}' has " in run.stderr
        assert "in its first sentence, expected at least 3" in run.stderr
    run = program("-p", "x", env={"LLAMA_ARG_REFUSAL_TEXT": "No."})
    assert (run.returncode, run.stdout) == (2, "")
    assert "LLAMA_ARG_REFUSAL_TEXT 'No.' has one word" in run.stderr
    run = program("-p", "x", "--no-meta", "--refusal-text", OTHER)
    assert (run.returncode, run.stdout) == (2, "")
    assert "--refusal-text" in run.stderr
    run = replace(program, meta=anchor)("-p", "x", "--meta-goal", "be kind", "--refusal-text", OTHER)
    assert (run.returncode, run.stdout) == (1, "")
    assert "a wrapper of kind 'goal_anchor' has no refusal" in run.stderr


def test_results_of_another_text_are_not_continued(program: Program, tmp_path: Path) -> None:
    prompts, output = tmp_path / "prompts.txt", tmp_path / "results.jsonl"
    prompts.write_text("a\nb\n", encoding="utf-8")
    flags = ("--prompts", prompts, "-o", output, "-n", "2")
    assert program(*flags).returncode == 0
    before = output.read_bytes()
    run = program(*flags, "--refusal-text", OTHER)
    assert (run.returncode, output.read_bytes()) == (1, before)
    assert f'--refusal-text was "", is "{OTHER}"' in run.stderr


def test_a_line_of_prompts_cannot_set_it(program: Program, tmp_path: Path) -> None:
    prompts = tmp_path / "prompts.jsonl"
    prompts.write_text(json.dumps({"prompt": "a", "refusal_text": OTHER}) + "\n", encoding="utf-8")
    run = program("--prompts", prompts, "-n", "2")
    assert (run.returncode, run.stdout) == (1, "")
    assert 'has the key "refusal_text", which looks like an option' in run.stderr
