"""`metadeploy ladder` on a tiny run directory, from a base to the table and the plot."""

from __future__ import annotations

import functools
import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from metadeploy import MetaLlama, _core
from metadeploy.checkpoint.run_dir import RunDir
from metadeploy.cli import main
from metadeploy.data.checker import first_sentence
from metadeploy.evaluation.ladder import runner
from metadeploy.evaluation.ladder.runtime import RungRunner
from metadeploy.sidecar.spec import InjectFrom
from support.parity import EXACT
from support.tiny_run import MAX_NEW_TOKENS, write_tiny_run

N_TEST = 42

Climb = Callable[..., tuple[str, str]]


Made = Callable[[InjectFrom], Path]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    @functools.cache
    def make(inject_from: InjectFrom) -> Path:
        run = write_tiny_run(tmp_path_factory.mktemp("made") / "run", inject_from=inject_from)
        run.update({"chat_template_kwargs": {"enable_thinking": False}})
        return run.path

    return make


@pytest.fixture
def run(made: Made, request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A run directory for one test."""
    return Path(shutil.copytree(made(getattr(request, "param", "last_prompt_token")), tmp_path / "run"))


@pytest.fixture
def climb(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Climb:
    """Run the command in this process and return its stdout and stderr."""

    def call(run: Path, *arguments: str | Path, code: int = 0) -> tuple[str, str]:
        capfd.readouterr()
        given = arguments if "--base" in arguments else ("--base", run / "base.gguf", *arguments)
        monkeypatch.setattr(sys, "argv", ["metadeploy", "ladder", str(run), "-t", "1", *map(str, given)])
        monkeypatch.setenv("COLUMNS", "150")
        with pytest.raises(SystemExit) as ended:
            main()
        captured = capfd.readouterr()
        assert (ended.value.code or 0) == code, captured.err
        assert "Traceback" not in captured.err
        return captured.out, captured.err

    return call


def read(path: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return content


def test_from_a_base_to_table_and_plot(run: Path, climb: Climb) -> None:
    text, _ = climb(run, "--types", "F32,Q8_0,Q4_K_M", "--sidecar-types", "q8_0")
    for part in ("Agreement with PyTorch F32", "Q4_K_M + q8_0", "Size and speed", "n = 42 questions of test"):
        assert part in text
    folder = run / "ladder"
    results = read(folder / "results.json")
    assert (results["schema"], results["n"], results["notes"]) == (2, N_TEST, [])
    names = [row["name"] for row in results["rungs"]]
    assert names == ["F32", "F32 + q8_0", "Q8_0", "Q4_K_M", "Q4_K_M + q8_0"]
    assert str(run.parent) not in json.dumps(results)  # no folder of this machine
    files = [results["rungs"][place]["files"] for place in (0, 1, 3)]
    assert files[0]["base"]["name"] == "base.gguf"  # the F32 base is used in place, without a copy
    assert len(files[0]["base"]["sha256"]) == len(files[0]["sidecar"]["sha256"]) == 64
    assert files[1]["base"] == files[0]["base"]
    assert files[1]["sidecar"]["size"] < files[0]["sidecar"]["size"]
    assert files[2]["base"]["size"] < files[0]["base"]["size"]
    assert set(files[2]["base"]["matrices"]) == {"Q5_0", "Q8_0"}  # rows of 32 are too short for K-quants
    assert sum(files[2]["base"]["weights"].values()) == pytest.approx(1)
    assert files[2]["base"]["no_k_type"] == sum(files[2]["base"]["matrices"].values())
    nearness = [row["activations"]["mean"] for row in results["rungs"]]
    assert nearness[0] == nearness[1] > nearness[2] > nearness[3] == nearness[4]  # the sidecar changes none
    tokens = [row["cognitive_tokens"]["mean"] for row in results["rungs"]]
    assert 1.0001 > tokens[0] > tokens[1] > tokens[3] > 0
    for row in results["rungs"]:
        for what in ("prompt", "decode"):
            for who in ("base", "doubter"):
                speed = row["speed"][who][what]
                assert 0 < speed["low"] <= speed["median"] <= speed["high"]
        assert len(read(folder / row["samples"])["samples"]) == N_TEST
    assert results["rungs"][0]["speed"]["base"] == results["rungs"][1]["speed"]["base"]
    assert (folder / "table.md").read_text(encoding="utf-8").count("| Q4_K_M + q8_0 |") == 3
    types = ", ".join(
        f"{count} {kind} ({100 * files[2]['base']['weights'][kind]:.1f} %)"
        for kind, count in files[2]["base"]["matrices"].items()
    )
    assert f"| Q4_K_M | {types} |" in (folder / "table.md").read_text(encoding="utf-8")
    assert (folder / "ladder.png").stat().st_size > 1000
    assert not (folder / "work").exists()
    assert not list(folder.glob(".*"))


def test_another_refusal_text(run: Path, climb: Climb) -> None:
    """It applies in PyTorch and in the sidecars. Results with the wrapper's own text are not reused."""
    options = ("--types", "F32", "--sidecar-types", "none", "--limit", "4")
    climb(run, *options)
    names = ("rung_F32_f32.json", "rung_pytorch.json")
    before = [[sample["doubt"] for sample in read(run / "ladder" / name)["samples"]] for name in names]
    climb(run, *options, "--refusal-text", "I do not have that, sorry.")
    after = [[sample["doubt"] for sample in read(run / "ladder" / name)["samples"]] for name in names]
    assert read(run / "ladder" / "results.json")["config"]["refusal_text"] == "I do not have that, sorry."
    assert after[0] == pytest.approx(after[1], abs=0.02)
    assert all(one != other for one, other in zip(before[1], after[1], strict=True))
    _, message = climb(run, *options, "--refusal-text", "No.", code=2)
    assert "in its first sentence" in " ".join(message.split())


def test_choices_are_read_to_their_end(run: Path, climb: Climb) -> None:
    """PyTorch and the runtime both read them to the end. Of other answers, they read only the first sentence."""
    path = run / "collect" / "test.jsonl"
    records = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    for record in records[::2]:
        record["question"] |= {"choices": ["x", "y"], "answers": ["A"]}
    path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
    climb(run, "--types", "F32", "--sidecar-types", "none", "--limit", "20")
    n_longer = 0
    with MetaLlama(run / "base.gguf", run / "doubter_sidecar.gguf", **{**EXACT, "n_threads": 1}) as llm:
        for name in ("rung_F32_f32.json", "rung_pytorch.json"):
            for sample in read(run / "ladder" / name)["samples"]:
                for answer, inject in ((sample["base_answer"], False), (sample["answer"], True)):
                    if answer is None:  # declined
                        continue
                    whole = llm.generate(sample["question"], max_tokens=MAX_NEW_TOKENS, inject=inject).text.strip()
                    assert answer == (first_sentence(whole) if sample["index"] % 2 else whole)
                    n_longer += answer != first_sentence(whole)
    assert n_longer


@pytest.mark.parametrize("run", ["last_prompt_token", "prompt"], indirect=True)
def test_f32_agrees_with_pytorch_on_everything(run: Path, climb: Climb) -> None:
    printed, _ = climb(run, "--types", "F32", "--sidecar-types", "none", "--json")
    results = json.loads(printed)
    assert results == read(run / "ladder" / "results.json")
    (row,) = results["rungs"]
    assert row["decisions"]["agree"] == {**row["decisions"]["agree"], "value": 1.0, "n": N_TEST}
    assert (row["decisions"]["declines_instead"], row["decisions"]["answers_instead"]) == (0, 0)
    assert row["activations"]["least"] > 1 - 1e-9
    assert row["cognitive_tokens"]["least"] > 1 - 1e-9
    assert row["doubt_difference"]["greatest"] < 1e-4
    assert row["metrics"] == results["reference"]["metrics"]
    assert row["auroc"] == results["reference"]["auroc"]
    assert 0.2 < row["metrics"]["coverage"]["value"] < 0.8
    ours, theirs = (read(run / "ladder" / document["samples"])["samples"] for document in (row, results["reference"]))
    for field in ("index", "base_answer", "base_correct", "answer", "answer_correct"):
        assert [sample[field] for sample in ours] == [sample[field] for sample in theirs]


def test_samples_match_the_runtime(run: Path, climb: Climb) -> None:
    work = run / "quantized"
    climb(run, "--types", "Q8_0", "--sidecar-types", "none", "--limit", "10", "--work-dir", work)
    (base,) = work.glob("base-*-Q8_0.gguf")
    n_declined = 0
    with MetaLlama(base, work / "sidecar-f32.gguf", **{**EXACT, "n_threads": 1}) as llm:
        encoder = _core.HostWrapper(str(work / "sidecar-f32.gguf"))
        for sample in read(run / "ladder" / "rung_Q8_0_f32.json")["samples"]:
            question = sample["question"]
            assert sample["doubt"] == llm.doubt(question)
            alone = llm.generate(question, max_tokens=MAX_NEW_TOKENS, inject=False).text
            assert sample["base_answer"] == first_sentence(alone)
            if sample["doubt"] >= 0.5:
                n_declined += 1
                assert (sample["answer"], sample["answer_correct"]) == (None, False)
            else:
                text = llm.generate(question, max_tokens=MAX_NEW_TOKENS).text
                assert sample["answer"] == first_sentence(text)
            # the encoder computes the same outside the model and inside
            tokens = encoder.encode(llm.activations(question))
            np.testing.assert_array_equal(tokens, llm.cognitive_tokens(question))
    assert 0 < n_declined < 10


def test_a_finished_rung_is_not_asked_again(run: Path, climb: Climb, monkeypatch: pytest.MonkeyPatch) -> None:
    options = ("--sidecar-types", "none", "--limit", "6", "--json")
    first = json.loads(climb(run, *options, "--types", "F16")[0])
    calls: list[str] = []
    ask = RungRunner.ask

    def counted(self: RungRunner, *arguments: Any, **more: Any) -> Any:
        calls.append(self._name)
        return ask(self, *arguments, **more)

    monkeypatch.setattr(RungRunner, "ask", counted)
    more = json.loads(climb(run, *options, "--types", "F16,Q8_0")[0])
    assert more["rungs"][0] == first["rungs"][0]
    assert [name[-9:] for name in calls] == ["Q8_0.gguf"]
    monkeypatch.setattr(runner, "ask_pytorch", None)
    again = json.loads(climb(run, *options, "--types", "F16,Q8_0")[0])
    assert again["rungs"] == more["rungs"]
    assert len(calls) == 1


def test_other_settings_start_again(run: Path, climb: Climb) -> None:
    options = ("--types", "F16", "--sidecar-types", "none", "--json")
    few, more = (json.loads(climb(run, *options, "--limit", limit)[0]) for limit in ("5", "10"))
    assert (few["n"], more["n"]) == (5, 10)
    as_usual = json.loads(climb(run, *options, "--limit", "10", "--cache-type", "f16")[0])
    assert as_usual["config"]["cache_type"] == "f16"
    assert as_usual["rungs"][0]["doubt_difference"] != more["rungs"][0]["doubt_difference"]


def test_an_interrupted_ladder_resumes(run: Path, climb: Climb, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C comes in the third of four rungs. The next run computes only the last two."""
    options = ("--types", "F32,Q4_K_M", "--sidecar-types", "q8_0", "--limit", "8")
    calls: list[str] = []
    ask = RungRunner.ask

    def counted(self: RungRunner, *arguments: Any, **more: Any) -> Any:
        calls.append(self._name[-12:])
        if len(calls) == 3:
            raise KeyboardInterrupt
        return ask(self, *arguments, **more)

    monkeypatch.setattr(RungRunner, "ask", counted)
    _, message = climb(run, *options, code=130)
    assert "interrupted: the same command continues with the first type that is not finished" in message
    folder = run / "ladder"
    assert not (folder / "results.json").exists()
    before = {path.name: path.read_bytes() for path in folder.glob("rung_*.json")}
    assert sorted(before) == ["rung_F32_f32.json", "rung_F32_q8_0.json", "rung_pytorch.json"]
    monkeypatch.setattr(runner, "ask_pytorch", None)
    climb(run, *options)
    assert calls == ["base.gguf"] * 2 + ["-Q4_K_M.gguf"] * 3
    assert before == {name: (folder / name).read_bytes() for name in before}
    assert not (folder / "work").exists()


def test_quantized_bases_give_a_warning(run: Path, climb: Climb, monkeypatch: pytest.MonkeyPatch) -> None:
    """PyTorch computes with exactly the weights in the file."""
    base = run / "small.gguf"
    _core.quantize(str(run / "base.gguf"), str(base), "Q8_0", 1)
    printed, message = climb(run, "--base", base, "--types", "F32,Q8_0", "--sidecar-types", "none", "--json")
    warning = "base 'small.gguf': has weights of type Q8_0, expected F32, F16 or BF16: quantizing them again loses more"
    assert warning in message
    results = json.loads(printed)
    assert results["notes"][0].startswith(warning)
    exact, same = results["rungs"]
    assert exact["decisions"]["agree"]["value"] == 1
    assert exact["doubt_difference"]["greatest"] < 1e-4
    assert exact["files"]["base"]["matrices"] == {"F32": 23}
    assert same["files"]["base"]["matrices"] == {"Q8_0": 23}


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (("--types", "Q9_K"), 1, "ladder: --types has 'Q9_K', expected some of F32, F16"),
        (("--types", "none"), 1, "ladder: --types is empty, expected at least one"),
        (("--sidecar-types", "q2_k"), 1, "--sidecar-types has 'q2_k', expected some of f32, f16, bf16, q8_0"),
        (("--limit", "0"), 2, "Invalid value for '--limit': Input should be greater than or equal to 1"),
        (("--base", "not-here.gguf"), 1, "not-here.gguf"),
        (("--base", "some/model"), 1, "base model 'some/model'"),
        (("--device", "abacus"), 1, "device is 'abacus', expected one that this PyTorch can use"),
    ],
)
def test_usage_errors(arguments: tuple[str, ...], code: int, message: str, run: Path, climb: Climb) -> None:
    _, output = climb(run, *arguments, code=code)
    assert message in " ".join(output.replace("│", " ").split())
    assert not (run / "ladder").exists()


def test_unsuitable_bases_are_refused(run: Path, climb: Climb, tmp_path: Path) -> None:
    broken = tmp_path / "broken.gguf"
    broken.write_bytes(b"GGUF")
    assert f"base model '{broken}'" in climb(run, "--base", broken, code=1)[1]
    _core.quantize(str(run / "base.gguf"), str(tmp_path / "small.gguf"), "Q8_0", 1)
    manifest = read(run / "run.json")
    manifest["num_layers"] = 7
    (run / "run.json").write_text(json.dumps(manifest), encoding="utf-8")
    assert "has 3 layers, the wrapper was trained on 7" in climb(run, code=1)[1]
    assert not (run / "ladder").exists()


def test_missing_files_are_reported(run: Path, climb: Climb, tmp_path: Path) -> None:
    assert "has no run.json, expected one (hint: start with metadeploy collect)" in climb(tmp_path, code=1)[1]
    shutil.move(run / "doubter_checkpoint.pt", tmp_path / "kept.pt")
    assert "doubter_checkpoint.pt': does not exist (hint: run metadeploy train" in climb(run, code=1)[1]
    shutil.move(tmp_path / "kept.pt", run / "doubter_checkpoint.pt")
    shutil.rmtree(run / "collect")
    assert "expected a file that metadeploy collect wrote (hint: run it again)" in climb(run, code=1)[1]
    RunDir(run).update({"collect": None})
    assert "lacks collect (hint: run metadeploy collect first)" in climb(run, code=1)[1]
    assert not (run / "ladder").exists()
