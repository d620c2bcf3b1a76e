"""`metadeploy eval` on a tiny run directory, from questions to plots, through both engines."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from metadeploy import __version__
from metadeploy.checkpoint.run_dir import RunDir
from metadeploy.cli import main
from metadeploy.data import load_set
from metadeploy.evaluation import sampling
from metadeploy.evaluation.samples import Samples
from metadeploy.sidecar import DEFAULT_REFUSAL_TEXT
from metadeploy.training.records import Collected
from support.tiny_run import write_speaking_gguf, write_tiny_run

QUICK = ("--gains", "0,1,2", "--sweep-limit", "20", "--bootstrap", "50")
N_TEST = 42

Eval = Callable[..., str]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_run(tmp_path_factory.mktemp("made") / "run").path


@pytest.fixture
def run(made: Path, tmp_path: Path) -> Path:
    """A run directory for one test."""
    return Path(shutil.copytree(made, tmp_path / "run"))


@pytest.fixture
def evaluate(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Eval:
    """Run the command in this process and return its stdout, or its stderr if it fails."""

    def call(*arguments: str | Path, code: int = 0) -> str:
        capfd.readouterr()
        monkeypatch.setattr(sys, "argv", ["metadeploy", "eval", *map(str, arguments)])
        monkeypatch.setenv("COLUMNS", "150")
        with pytest.raises(SystemExit) as ended:
            main()
        captured = capfd.readouterr()
        assert (ended.value.code or 0) == code, captured.err
        assert "Traceback" not in captured.err
        return captured.err if code else captured.out

    return call


def read(path: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return content


def test_torch_from_questions_to_plots(run: Path, evaluate: Eval) -> None:
    text = evaluate(run, *QUICK)
    for part in (
        "42 questions about 14 entities, threshold 0.5",
        "linear probe",
        "category alone",
        "told that it may decline",
        "gain (20",
    ):
        assert part in text
    results = read(run / "eval" / "results_torch_float32_test.json")
    assert (results["schema"], results["n"]) == (1, N_TEST)
    assert [row["name"] for row in results["baselines"]] == [
        "mean log-probability",
        "first token's log-probability",
        "linear probe",
        "category alone",
        "told that it may decline",
    ]
    values = {name: row["value"] for name, row in results["metrics"].items()}
    assert 0.2 < values["base_accuracy"] < 0.6
    assert 0.2 < values["coverage"] < 0.8
    assert [point["gain"] for point in results["gains"]] == [0, 1, 2]
    assert results["gains"][0]["coverage"] == {**results["gains"][0]["coverage"], "value": 1.0, "n": 20}
    probe = results["trained_baselines"]["linear probe"]
    assert probe["layer"] in (0, 1, 2)
    assert probe["val_auroc"] == probe["val_auroc_by_strength"][str(probe["strength"])]
    assert probe["converged"] is True
    assert results["config"]["max_new_tokens"] == 16
    assert results["config"]["base"]["name"] == "base.gguf"
    assert len(results["config"]["wrapper"]["sha256"]) == 64
    assert results["environment"]["metadeploy"] == __version__ != "unknown"
    assert str(run.parent) not in json.dumps(results)  # no folder of this machine
    for name in (*results["plots"], results["samples"]["file"]):
        assert (run / "eval" / name).stat().st_size > 1000
    assert len(results["plots"]) == 4
    assert not list((run / "eval").glob(".*"))


def test_both_engines_find_the_same(run: Path, evaluate: Eval) -> None:
    one = json.loads(evaluate(run, *QUICK, "--json"))
    other = json.loads(evaluate(run, *QUICK, "--json", "--engine", "runtime", "--threads", "1"))
    assert other["config"]["engine"] == "runtime"
    assert other["samples"]["file"] == "samples_runtime_base_test.jsonl"
    ours, theirs = (Samples.read(run / "eval" / results["samples"]["file"]) for results in (one, other))
    # the runtime's cache is F16, which may change the choice between two almost equally likely words
    same = [a.base_answer == b.base_answer and a.answer == b.answer for a, b in zip(ours, theirs, strict=True)]
    assert sum(same) >= 0.9 * N_TEST
    assert [sample.doubt for sample in ours] == pytest.approx([sample.doubt for sample in theirs], abs=0.02)
    assert [sample.told is not None for sample in theirs] == [True] * N_TEST
    assert sum(bool(sample.gains) for sample in theirs) == 20


@pytest.mark.parametrize("engine", ["torch", "runtime"])
def test_another_refusal_text_gets_its_own_answers(engine: str, run: Path, evaluate: Eval) -> None:
    """The bias belongs to the wrapper's own text and is dropped. Doubt then differs, so no earlier answer is reused."""
    options = ("--engine", engine, "--no-baselines", "--gains", "none", "--limit", "8", "--bootstrap", "20", "--json")
    own = json.loads(evaluate(run, *options))
    before = [sample.doubt for sample in Samples.read(run / "eval" / own["samples"]["file"])]
    results = json.loads(evaluate(run, *options, "--refusal-text", "I do not have that, sorry."))
    assert own["config"]["refusal_text"] == DEFAULT_REFUSAL_TEXT
    assert results["config"]["refusal_text"] == "I do not have that, sorry."
    after = [sample.doubt for sample in Samples.read(run / "eval" / results["samples"]["file"])]
    assert len(after) == len(before) == 8
    assert all(one != other for one, other in zip(before, after, strict=True))
    assert "in its first sentence" in " ".join(evaluate(run, "--refusal-text", "No.", code=2).split())


def test_another_threshold_reuses_all_answers(run: Path, evaluate: Eval, monkeypatch: pytest.MonkeyPatch) -> None:
    evaluate(run, *QUICK)
    samples = (run / "eval" / "samples_torch_float32_test.jsonl").read_bytes()

    def never(*_: object) -> None:
        raise AssertionError("asked again")

    monkeypatch.setattr(sampling, "_Chunk", never)
    results = json.loads(evaluate(run, *QUICK, "--threshold", "0", "--json"))
    assert results["threshold"] == {"value": 0.0, "chosen": "by hand"}
    assert results["metrics"]["coverage"]["value"] == 0
    assert (run / "eval" / "samples_torch_float32_test.jsonl").read_bytes() == samples


@pytest.mark.skipif(os.name == "nt", reason="SIGINT and SIGTERM are POSIX signals")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_evaluation_resumes(
    number: signal.Signals, run: Path, evaluate: Eval, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is interrupted after the second of six chunks and then resumed. The files have the same bytes."""
    monkeypatch.setattr(sampling, "CHUNK", 8)
    counts: list[int] = []
    chunk = sampling._Chunk

    class Counted(chunk):  # type: ignore[misc,valid-type]
        def samples(self) -> Any:
            if len(counts) == 2:
                counts.append(0)
                os.kill(os.getpid(), number)
            counts.append(len(self._questions))
            return super().samples()

    path = run / "eval" / "samples_torch_float32_test.jsonl"
    evaluate(run, *QUICK)
    whole = path.read_bytes()
    path.unlink()
    monkeypatch.setattr(sampling, "_Chunk", Counted)
    message = evaluate(run, *QUICK, code=130)
    assert message.endswith("interrupted: the same command continues, at most 8 questions earlier\n")
    assert not path.exists()
    evaluate(run, *QUICK)
    assert counts == [8, 8, 0, 8, 8, 8, 2]
    assert path.read_bytes() == whole


def test_a_threshold_chosen_on_val(run: Path, evaluate: Eval) -> None:
    options = (*QUICK, "--no-baselines", "--gains", "none", "--json")
    by_coverage = json.loads(evaluate(run, *options, "--target-coverage", "0.25"))
    assert by_coverage["threshold"]["val"]["coverage"] == pytest.approx(11 / 42)  # 10.5 questions are rounded up
    assert by_coverage["baselines"] == by_coverage["gains"] == []
    bounded = json.loads(evaluate(run, *options, "--max-over-refusal", "0.2"))
    assert 0 < bounded["threshold"]["val"]["over_refusal"] <= 0.2
    assert bounded["threshold"]["value"] > by_coverage["threshold"]["value"]
    doubts = [sample.doubt for sample in Samples.read(run / "eval" / "calibration_torch_float32.jsonl")]
    assert sum(doubt < by_coverage["threshold"]["value"] for doubt in doubts) == 11


def test_other_questions(run: Path, evaluate: Eval, tmp_path: Path) -> None:
    path = tmp_path / "mine.jsonl"
    rows = [{"question": f"Who is {n}?", "answers": ["x"], "category": "new"} for n in range(5)]
    path.write_text("".join(json.dumps(question) + "\n" for question in rows), encoding="utf-8")
    results = json.loads(evaluate(run, *QUICK, "--questions", path, "--limit", "4", "--json"))
    assert results["n"] == 4
    assert re.fullmatch(r"samples_torch_float32_mine-[0-9a-f]{8}-4\.jsonl", results["samples"]["file"])
    assert "left_out" in results["trained_baselines"]["linear probe"]
    assert [row["name"] for row in results["baselines"]][2:] == ["category alone", "told that it may decline"]
    assert not any(name.startswith("doubt") for name in results["plots"])  # no histogram without a right answer


def test_a_local_copy_of_a_public_set(
    run: Path, evaluate: Eval, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "cache"))
    options = (*QUICK, "--no-baselines", "--questions", "gsm8k", "--json")
    samples = set()
    for name, count in (("one.jsonl", 40), ("two.jsonl", 60)):
        rows = [{"question": f"What is {n} + 1?", "answer": f"so\n#### {n + 1}"} for n in range(count)]
        source = tmp_path / name
        source.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        results = json.loads(evaluate(run, *options, "--source", source))
        assert (results["config"]["questions"], results["config"]["source"]) == ("gsm8k", str(source))
        questions = {sample.question for sample in Samples.read(run / "eval" / results["samples"]["file"])}
        assert questions == {question.question for question in load_set("gsm8k", source=source)["test"]}
        samples.add(results["samples"]["file"])
    assert all(re.fullmatch(r"samples_torch_float32_gsm8k-test-[0-9a-f]{8}\.jsonl", name) for name in samples)
    assert len(samples) == 2, "other questions with the same name must not replace these results"


def test_a_smaller_limit_draws_some_of_the_same(run: Path, evaluate: Eval) -> None:
    options = ("--no-baselines", "--gains", "none", "--bootstrap", "5")
    drawn = []
    for limit in (10, 20):
        evaluate(run, *options, "--limit", str(limit))
        samples = Samples.read(run / "eval" / f"samples_torch_float32_test-{limit}.jsonl")
        drawn.append({sample.index for sample in samples})
    assert len(drawn[0]) == 10
    assert drawn[0] < drawn[1]
    assert drawn[0] != set(range(10))


def test_results_of_something_else_leave_the_runs_own(run: Path, evaluate: Eval, tmp_path: Path) -> None:
    options = ("--no-baselines", "--gains", "none", "--bootstrap", "5")
    evaluate(run, *options)
    before = {path: path.read_bytes() for path in (run / "eval").iterdir()}
    mine = tmp_path / "mine" / "test.jsonl"  # the same name as one of the run's splits
    mine.parent.mkdir()
    rows = [{"question": f"Who is {n}?", "answers": ["x"], "category": "new"} for n in range(3)]
    mine.write_text("".join(json.dumps(question) + "\n" for question in rows), encoding="utf-8")
    other = shutil.copy(run / "doubter_sidecar.gguf", tmp_path / "other.gguf")
    base = shutil.copy(read(run / "run.json")["model_name"], tmp_path / "elsewhere.gguf")
    for option, value in (("--questions", mine), ("--limit", "5"), ("--sidecar", other), ("--base", base)):
        evaluate(run, *options, option, value)
    assert {path: path.read_bytes() for path in before} == before
    assert len(list((run / "eval").glob("results_*.json"))) == 5


def test_the_baselines_also_leave_out_categories(run: Path, evaluate: Eval) -> None:
    """The baselines must know as little about these questions as the wrapper does."""
    kinds = {record.question.category for record in Collected.read(run / "collect", "train").records}
    kind, *_ = sorted(kinds)
    opened = RunDir(run)
    opened.update({"train": {**opened.manifest.get("train", {}), "leave_out": [kind]}})
    results = json.loads(evaluate(run, "--gains", "none", "--bootstrap", "5", "--target-coverage", "0.5", "--json"))
    assert results["trained_baselines"]["category alone"]["categories"] == len(kinds) - 1
    (path,) = (run / "eval").glob("calibration_*.jsonl")
    assert kind not in {sample.category for sample in Samples.read(path)}


def test_a_sidecar_of_an_older_checkpoint_is_refused(run: Path, evaluate: Eval) -> None:
    checkpoint = torch.load(run / "doubter_checkpoint.pt", weights_only=True)
    torch.save({**checkpoint, "calibrated": "anew"}, run / "doubter_checkpoint.pt")
    message = evaluate(run, *QUICK, "--engine", "runtime", code=1)
    assert "was exported from another checkpoint" in message
    assert "(hint: run metadeploy export --force)" in message


def test_means_over_runs(run: Path, evaluate: Eval, tmp_path: Path) -> None:
    twin = shutil.copytree(run, tmp_path / "twin")
    text = evaluate(run, twin, *QUICK, "--output", tmp_path / "mean.json")
    assert "mean of 2 runs" in text
    combined = read(tmp_path / "mean.json")
    assert [row["run"] for row in combined["runs"]] == ["run", "twin"]
    coverage = combined["metrics"]["coverage"]
    assert coverage["low"] == coverage["mean"] == coverage["high"]  # the same run is given twice
    printed = json.loads(evaluate(run, twin, *QUICK, "--json"))
    assert printed["metrics"] == combined["metrics"]
    assert len(printed["results"]) == 2
    # a run's folder may hold means, which are replaced
    for _ in range(2):
        evaluate(run, twin, *QUICK, "--output", run / "eval" / "results_seeds.json")
    own = "eval/results_torch_float32_test.json"
    for name in (
        "run.json",
        "doubter_checkpoint.pt",
        "collect/test.jsonl",
        own,
        "eval/samples_torch_float32_test.jsonl",
    ):
        before = (run / name).read_bytes()
        message = evaluate(run, twin, *QUICK, "--output", run / name, code=1)
        assert f"means '{run / name}': is the same file as the input '{run / name}'" in message
        assert name == own or (run / name).read_bytes() == before


def test_another_run_json_asks_again(run: Path, evaluate: Eval) -> None:
    """The file holds the answer suffix and the template variables, which are part of the prompt."""
    options = ("--no-baselines", "--gains", "none", "--bootstrap", "5", "--limit", "5", "--json")
    fingerprints = [json.loads(evaluate(run, *options))["samples"]["fingerprint"] for _ in range(2)]
    RunDir(run).update({"answer_suffix": " Be brief."})
    fingerprints.append(json.loads(evaluate(run, *options))["samples"]["fingerprint"])
    assert fingerprints[0] == fingerprints[1] != fingerprints[2]


def test_a_base_that_was_replaced_is_refused(run: Path, evaluate: Eval, tmp_path: Path) -> None:
    base = tmp_path / "base.gguf"
    write_speaking_gguf(base, seed=4)
    RunDir(run).update({"model_name": str(base)})
    for engine in ("torch", "runtime"):
        message = evaluate(run, *QUICK, "--engine", engine, code=1)
        assert "has changed since the questions were collected" in message


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (("--threshold", "0.3", "--target-coverage", "0.2"), 1, "--target-coverage and --threshold are given"),
        (("--gains", "1,two"), 2, "'1,two' is no list of numbers"),
        (("--output", "mean.json"), 2, "is for the means over several run directories"),
        (("--base", "not-here.gguf"), 1, "not-here.gguf"),
        (("--engine", "runtime", "--base", "some/model"), 1, "expected a GGUF for --engine runtime (hint: name one"),
        (("--sidecar", "not-here.gguf"), 1, "wrapper 'not-here.gguf': does not exist"),
        (("--questions", "not-a-set"), 1, "questions 'not-a-set': no such file or folder"),
        (("--source", "mmlu.jsonl"), 1, "--source is given, expected only with --questions"),
        (("--questions", "facts", "--source", "mmlu.jsonl"), 1, "expected only with mmlu, triviaqa, gsm8k"),
        (("--questions", "QUESTIONS", "--source", "mmlu.jsonl"), 1, "expected only with mmlu, triviaqa, gsm8k"),
    ],
)
def test_usage_errors(arguments: tuple[str, ...], code: int, message: str, run: Path, evaluate: Eval) -> None:
    resolved = [str(run / "collect" / "test.jsonl") if argument == "QUESTIONS" else argument for argument in arguments]
    output = " ".join(evaluate(run, *resolved, code=code).replace("│", " ").split())
    assert message in output
    assert not (run / "eval").exists()


def test_missing_files_are_reported(run: Path, evaluate: Eval, tmp_path: Path) -> None:
    assert "has no run.json, expected one (hint: start with metadeploy collect)" in evaluate(tmp_path, code=1)
    (run / "doubter_sidecar.gguf").unlink()
    assert "(hint: run metadeploy export first)" in evaluate(run, "--engine", "runtime", code=1)
    (run / "doubter_checkpoint.pt").unlink()
    assert "(hint: run metadeploy train first)" in evaluate(run, code=1)
    RunDir(run).update({"collect": None})
    assert "lacks collect (hint: run metadeploy collect first)" in evaluate(run, code=1)
