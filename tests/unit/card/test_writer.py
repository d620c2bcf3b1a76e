"""The model card: its parts, its figures, and the protection of a user's edits."""

from __future__ import annotations

import hashlib
import json
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from huggingface_hub import ModelCard
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from metadeploy._format import interval, number, p_value, percent
from metadeploy.card import CardReport, facts, write_card
from metadeploy.card.markdown import code, escape, table
from metadeploy.card.training import training_table
from metadeploy.checkpoint.run_dir import RunDir
from metadeploy.errors import Error, MissingDependencyError, RunDirError
from metadeploy.evaluation import scoring as evaluation_results
from metadeploy.evaluation.aggregate import over_runs
from metadeploy.evaluation.ladder import runner
from support.card_run import CHECKPOINT, RUNTIME, drawn_samples, results_of, section, sidecar_of, write_run, written

SECTIONS = [
    "Results",
    "How to read this",
    "What it cannot do",
    "Use it",
    "Files in this folder",
    "Training",
    "Formats and sources",
]


def sections(card: str) -> list[str]:
    return re.findall(r"^## (.+)$", card, re.MULTILINE)


def front_matter(card: str) -> dict[str, Any]:
    metadata: dict[str, Any] = yaml.safe_load(card.split("---\n", 2)[1])
    return metadata


def cells(card: str) -> list[list[list[str]]]:
    """Return every table as rows of plain cells, read by a Markdown parser."""
    tables: list[list[list[str]]] = []
    in_cell = False
    for token in MarkdownIt("commonmark").enable("table").parse(card.split("---\n", 2)[2]):
        if token.type == "table_open":
            tables.append([])
        elif token.type == "tr_open":
            tables[-1].append([])
        elif token.type in ("th_open", "td_open"):
            tables[-1][-1].append("")
        elif token.type == "inline" and in_cell:
            tables[-1][-1][-1] = "".join(child.content for child in token.children or ())
        in_cell = token.type in ("th_open", "td_open")
    return tables


@pytest.fixture
def run(tmp_path: Path) -> RunDir:
    """A run directory with results from PyTorch and the compiled runtime."""
    return write_run(tmp_path / "run", results_of(drawn_samples(40), **RUNTIME), results_of(drawn_samples(60, seed=1)))


def test_the_parts_of_a_card(run: RunDir) -> None:
    report = write_card(run, license_id="MIT")
    assert report == CardReport(run.path / "README.md", 2, ())
    card = report.path.read_text(encoding="utf-8")
    assert sections(card) == SECTIONS
    assert "\n# Doubter for Tiny-1B\n" in card
    assert "\n> I cannot say.\n" in card
    # the test questions in PyTorch come first
    assert re.findall(r"^### (.+)$", card, re.MULTILINE) == [
        "facts, test split (PyTorch, bfloat16)",
        "facts, test split (llama.cpp, tiny-Q4\\_K\\_M.gguf)",
    ]
    # only the plot that exists, without the gates
    assert card.count("![") == 1
    assert "](eval/risk_coverage_torch_test.png)" in card
    assert 'MetaLlama("tiny-Q4_K_M.gguf", "doubter_sidecar.gguf")' in card
    assert "llama-meta-generate -m tiny-Q4_K_M.gguf --meta doubter_sidecar.gguf" in card
    assert "\n\n\n" not in card
    assert str(run.path) not in card
    assert not list(run.path.glob(".*"))


def test_the_refusal_comes_from_the_sidecar(tmp_path: Path) -> None:
    """The sidecar's text takes precedence over run.json's, because export can set another one."""
    run = write_run(tmp_path / "run")
    run.update({"refusal_text": "I do not know that."})
    assert "\n> I cannot say.\n" in write_card(run).path.read_text(encoding="utf-8")
    run.sidecar.unlink()
    assert "\n> I do not know that.\n" in write_card(run, force=True).path.read_text(encoding="utf-8")


def test_the_hub_can_read_the_front_matter(run: RunDir) -> None:
    card = written(run, license_id="Apache-2.0")
    metadata = front_matter(card)
    assert metadata["base_model"] == "owner/Tiny-1B"
    assert metadata["base_model_relation"] == "adapter"
    assert (metadata["license"], metadata["library_name"], metadata["pipeline_tag"]) == (
        "apache-2.0",
        "metadeploy",
        "text-generation",
    )
    assert {"meta-spider", "gguf", "selective-prediction", "abstention", "calibration"} <= set(metadata["tags"])
    data = ModelCard(card).data  # raises if the hub cannot read the model-index
    assert data.model_name == "Doubter for Tiny-1B"
    results = json.loads((run.path / "eval" / "results_1.json").read_text(encoding="utf-8"))
    values = {entry.metric_type: entry for entry in data.eval_results if entry.dataset_config == "PyTorch, bfloat16"}
    for name in ("coverage", "selective_accuracy", "over_refusal_rate", "auroc"):
        row = results["metrics"][name]
        assert values[name].metric_value == pytest.approx(row["value"], abs=5e-5)
        assert values[name].metric_name.endswith(f"(n = {row['n']})")
    assert {entry.dataset_split for entry in data.eval_results} == {"test"}


def test_every_metric_has_its_row(run: RunDir) -> None:
    results = json.loads((run.path / "eval" / "results_1.json").read_text(encoding="utf-8"))
    metrics, least_doubted, baselines, categories, *_ = cells(written(run))
    assert metrics[0] == ["metric", "value", "95 % interval", "n"]
    rows = {name: rest for name, *rest in metrics[1:]}
    row = results["metrics"]["selective_accuracy"]
    assert rows["selective accuracy: right of the answered"] == [
        f"{row['value']:.1%}",
        f"{row['low']:.1%} to {row['high']:.1%}",
        str(row["n"]),
    ]
    assert least_doubted[0][1:] == ["5%", "10%", "15%", "20%", "25%", "30%", "40%", "50%"]
    assert least_doubted[1][1:] == [f"{row['value']:.1%}" for row in results["least_doubted"]]
    assert [name for name, *_ in baselines[1:]] == [entry["name"] for entry in results["baselines"]]
    probe, prompted = baselines[3], baselines[4]
    assert probe[3] == "same"
    assert prompted[1:4] == ["–", "–", f"{results['baselines'][3]['coverage']['value']:.1%}"]
    assert {name for name, *_ in categories[1:]} == {"capital", "plural"}
    assert (f"McNemar test, p {p_value(results['mcnemar']['p_value'])}") in written(run)


def test_results_of_an_older_version_lack_some_rows_and_nothing_else(run: RunDir) -> None:
    whole = written(run)
    for path in (run.path / "eval").glob("results_*.json"):
        results = json.loads(path.read_text(encoding="utf-8"))
        del results["metrics"]["same_words_rate"], results["least_doubted"], results["bootstrap"]["entities"]
        path.write_text(json.dumps(results), encoding="utf-8")
    lacking = written(run)
    assert "| same words:" in whole and "| same words:" not in lacking
    assert "the least doubted |" in whole and "the least doubted |" not in lacking
    assert "60 questions about 60 entities; declined" in whole
    assert "60 questions; declined" in lacking
    assert len(cells(lacking)) == len(cells(whole)) - 2
    assert sections(lacking) == sections(whole) == SECTIONS


def figures_of(value: Any) -> Iterator[float]:
    """Yield every number in a JSON document."""
    if isinstance(value, dict):
        for member in value.values():
            yield from figures_of(member)
    elif isinstance(value, list):
        for member in value:
            yield from figures_of(member)
    elif isinstance(value, (int, float)) and not isinstance(value, bool):
        yield value


def spelt(figure: float) -> set[str]:
    share = percent(figure).lstrip("<> ")  # "> 99.9%" for a share of almost 100 %
    return {share, f"{figure:.3f}", f"{figure:,}", f"{figure:.3g}", f"{round(figure, 4):g}"}


FIGURE = re.compile(r"-?\d[\d,]*(?:\.\d+)?%?")


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    n=st.integers(1, 50),
    seed=st.integers(0, 10_000),
    threshold=st.sampled_from([0, 0.1, 0.5, 0.625, 1]),
    kinds=st.integers(1, 4),
)
def test_every_figure_is_in_a_results_file(
    n: int, seed: int, threshold: float, kinds: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    samples = drawn_samples(n, seed=seed, categories=("a", "b", "c", "d")[:kinds])
    results = results_of(samples, threshold=threshold)
    card = written(write_run(tmp_path_factory.mktemp("drawn") / "run", results))
    known = {text for figure in figures_of(results) for text in spelt(figure)}
    # fixed numbers in the card's text: the level of the intervals and the default threshold
    known |= {"95", "0.001", "0.5", "0.8", "1"}
    known |= {percent(row["coverage"], 0) for row in results["least_doubted"]}
    prose = section(card, "Results") + section(card, "What it cannot do")
    prose = re.sub(r"\(PyTorch, \w+\)|Tiny-1B", "", re.sub(r"\]\([^)]*\)", "", prose))
    figures = FIGURE.findall(prose)
    assert len(figures) > 30
    assert [figure for figure in figures if figure not in known] == []
    for result in front_matter(card)["model-index"][0]["results"]:
        for metric in result["metrics"]:
            assert f"{metric['value']:g}" in known
            (count,) = re.findall(r"\(n = ([\d,]+)\)", metric["name"])
            assert count in known


def test_without_results_it_says_so(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run")
    report = write_card(run)
    card = report.path.read_text(encoding="utf-8")
    assert report.n_results == 0
    assert report.notes == (
        "there are no results: the card has no figures (metadeploy eval measures)",
        "no license is named (--license MIT)",
    )
    assert "Nothing has been measured yet" in card
    assert "model-index" not in front_matter(card)
    assert sections(card) == [section for section in SECTIONS if section != "How to read this"]
    assert "|" not in section(card, "Results")
    assert ModelCard(card).data.eval_results is None


def test_a_sidecar_of_an_older_checkpoint_makes_no_card(run: RunDir) -> None:
    run.sidecar.write_bytes(sidecar_of(b"an older one"))
    with pytest.raises(
        RunDirError, match=r"was exported from another checkpoint than the current 'doubter_checkpoint\.pt'"
    ):
        write_card(run)


def test_a_run_directory_of_the_framework(tmp_path: Path) -> None:
    """It has no training keys, no sidecar and no collected questions; layers are a preset, and the base is a file."""
    (tmp_path / "doubter_checkpoint.pt").write_bytes(b"x")
    RunDir(tmp_path, create=True).update({"model_name": "/models/base x.gguf", "target_layers": "late"})
    report = write_card(RunDir(tmp_path), name="Mine")
    card = report.path.read_text(encoding="utf-8")
    assert "metadeploy export . --base 'base x.gguf'" in card
    assert 'MetaLlama("base x.gguf", ' in card
    assert "/models" not in card
    assert "base_model" not in front_matter(card)
    assert any("--base-model" in note for note in report.notes)
    assert "A *Doubter* for `base x.gguf`:" in card
    assert training_table({}).splitlines()[2:] == []
    assert front_matter(written(RunDir(tmp_path), base_model="a/b"))["base_model"] == "a/b"
    with pytest.raises(Error, match=r"--base-model is 'b\.gguf', expected a hub id"):
        write_card(RunDir(tmp_path), base_model="b.gguf")
    (tmp_path / "doubter_checkpoint.pt").unlink()
    (tmp_path / "run.json").write_text("{}", encoding="utf-8")
    assert "`an unnamed base`" in written(RunDir(tmp_path))


NASTY = "a|b *c* _d_ `e` <f> [g](h) $i$ ~~j~~ #k &amp; \\l ---"


def test_names_are_never_markup(tmp_path: Path) -> None:
    samples = drawn_samples(20, categories=(NASTY, "x\ny: - {z}"))
    results = results_of(samples, **{**RUNTIME, "base": {"name": f"{NASTY}.gguf"}, "questions": f"{NASTY}.jsonl"})
    results["baselines"][0]["name"] = NASTY
    results["threshold"]["chosen"] = NASTY
    run = write_run(tmp_path / "run", results, refusal_text=NASTY, dataset=NASTY, answer_suffix=NASTY)
    name = f"{NASTY}: 'quoted' \"twice\"\nsecond"
    card = written(run, name=name)
    assert ModelCard(card).data.model_name == name
    tables = cells(card)
    assert all(len({len(row) for row in table}) == 1 for table in tables), "no cell was split"
    cells_shown = {cell for table in tables for row in table for cell in row}
    assert {NASTY, "x y: - {z}"} <= cells_shown
    rendered = MarkdownIt("commonmark").enable("table").render(card.split("---\n", 2)[2])
    assert "<em>c</em>" not in rendered
    assert "<f>" not in rendered
    assert 'href="h"' not in rendered
    assert re.findall(r"<h1>(.*)</h1>", rendered) == [
        "a|b *c* _d_ `e` &lt;f&gt; [g](h) $i$ ~~j~~ #k &amp;amp; \\l ---: 'quoted' &quot;twice&quot; second"
    ]


@given(st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=30))
@settings(max_examples=200)
def test_any_text_survives(text: str) -> None:
    """It is escaped in a line, and is code in a table's cell."""
    parser = MarkdownIt("commonmark").enable("table")
    plain = " ".join(text.split())
    (inline,) = parser.parseInline(f"x{escape(text)}x")
    assert "".join(child.content for child in inline.children or ()) == f"x{plain}x"
    if plain:
        tokens = parser.parse(table(("a", "b"), [(code(text), "end")]))
        spans = [child for token in tokens for child in token.children or () if child.type == "code_inline"]
        assert [span.content for span in spans] == [plain]


def test_formats_of_figures() -> None:
    assert (percent(0.5812), percent(None), number(0.81), number(None)) == ("58.1%", "–", "0.810", "–")
    assert (p_value(0.0004), p_value(0.05), p_value(None)) == ("< 0.001", "0.050", "–")
    assert interval({"low": 0.1, "high": 0.25}, is_share=True) == "10.0% to 25.0%"
    assert interval({"low": None, "high": None}, is_share=False) == "–"


def test_it_may_be_written_again_until_it_is_edited(run: RunDir) -> None:
    first = written(run)
    assert written(run) == first, "the same files give the same card"
    (run.path / "eval" / "results_0.json").unlink()
    assert written(run) != first
    card = run.path / "README.md"
    edited = card.read_text(encoding="utf-8").replace("# Doubter", "# My Doubter", 1)
    for content in (edited, "my own words\n", ""):
        card.write_text(content, encoding="utf-8")
        with pytest.raises(RunDirError, match=r"README\.md': was written or edited by someone else.*--force"):
            write_card(run)
        assert card.read_text(encoding="utf-8") == content
    assert "# Doubter for" in written(run, force=True)


def test_links_are_relative_to_the_card(run: RunDir) -> None:
    (run.path / "train").mkdir()
    (run.path / "train" / "curves.png").write_bytes(b"x")
    card = written(run, output=run.path.parent / "docs" / "card.md")
    assert "](../run/train/curves.png)" in card
    assert "](../run/eval/risk_coverage_torch_test.png)" in card
    assert not (run.path / "README.md").exists()


def test_the_files_that_are_there(run: RunDir) -> None:
    (run.path / "collect").mkdir()
    (run.path / "collect" / "val.jsonl").write_bytes(b"12345")
    (run.path / "eval" / ".samples.jsonl.partial").write_bytes(b"x")
    (run.path / "notes.txt").write_bytes(b"x")
    rows = cells(section_only(written(run), "Files in this folder"))[0]
    assert [name for name, *_ in rows[1:]] == [
        "doubter_sidecar.gguf",
        "doubter_checkpoint.pt",
        "run.json",
        "collect/val.jsonl",
        "eval/results_0.json",
        "eval/results_1.json",
        "eval/risk_coverage_torch_test.png",
    ]
    assert rows[4][2:] == ["5", "5994471abb01…"]


def section_only(card: str, title: str) -> str:
    return "---\n---\n" + section(card, title)


def test_means_over_seeds(run: RunDir) -> None:
    results = [results_of(drawn_samples(60, seed=seed), run=f"seed|{seed}") for seed in range(3)]
    combined = over_runs([{**result, "samples": {"file": "s", "fingerprint": "f"}} for result in results])
    (run.path / "eval" / "results_seeds.json").write_text(json.dumps(combined), encoding="utf-8")
    report = write_card(run)
    assert report.n_results == 3
    card = report.path.read_text(encoding="utf-8")
    assert "### Means over 3 trainings" in card
    assert "`seed\\|0`, `seed\\|1`, `seed\\|2`: the same recipe" in card
    row = combined["metrics"]["auroc"]
    assert f"| {row['mean']:.3f} | {row['low']:.3f} to {row['high']:.3f} | 3 |" in card
    means = card.split("### Means")[1]
    assert "| linear probe |" in means
    cells_of_means = [f"{row['mean']:.1%}" for row in combined["least_doubted"]]
    assert f"| right of the answered | {' | '.join(cells_of_means)} |" in means
    older = {name: value for name, value in combined.items() if name != "least_doubted"}
    (run.path / "eval" / "results_seeds.json").write_text(json.dumps(older), encoding="utf-8")
    assert "| right of the answered |" not in written(run).split("### Means")[1]


def test_kinds_that_training_left_out(tmp_path: Path) -> None:
    results = results_of(drawn_samples(40))
    run = write_run(tmp_path / "run", results, train={"leave_out": ["plural"]})
    card = written(run)
    table = card.split("These kinds of question were left out of training")[1].split("<details>")[0]
    row = results["categories"]["plural"]
    assert f"| plural | {row['n']} | {row['base_accuracy']:.1%} | {row['coverage']:.1%} |" in table
    assert "capital" not in table
    assert "| **left out of training** | plural |" in card
    assert "It was not measured on other kinds" not in card


def test_versions_of_results_that_commands_write() -> None:
    assert evaluation_results.SCHEMA in facts.SCHEMAS["eval"]
    assert runner._SCHEMA in facts.SCHEMAS["ladder"]


@pytest.mark.parametrize("schema", facts.SCHEMAS["ladder"])
def test_the_ladder(schema: int, run: RunDir) -> None:
    def row(coverage: float) -> dict[str, Any]:
        return {
            "metrics": {
                "coverage": {"value": coverage},
                "selective_accuracy": {"value": None},
                "refusal_precision": {"value": 0.75},
            }
        }

    agree = {"value": 0.975, "low": 0.9, "high": 0.995}
    checkpoint = {"name": "doubter_checkpoint.pt", "sha256": hashlib.sha256(CHECKPOINT).hexdigest()}
    results = {
        "schema": schema,
        "config": {"checkpoint": checkpoint, "split": "test"},
        "n": 1300,
        "reference": {"name": "PyTorch F32", **row(0.31)},
        "rungs": [
            {
                "base": "Q4_K_M",
                "sidecar": "q8_0",
                "files": {"base": {"size": 1234}},
                "decisions": {"agree": agree},
                **row(0.29),
            }
        ],
    }
    path = run.path / "ladder" / "results.json"
    path.parent.mkdir()
    path.write_text(json.dumps(results), encoding="utf-8")
    (path.parent / "ladder.png").write_bytes(b"x")
    report = write_card(run)
    card = report.path.read_text(encoding="utf-8")
    assert report.n_results == 3
    assert "1,300 questions of the test split in llama.cpp" in card
    assert "| PyTorch F32 | – | – | – | 31.0% | – | 75.0% |" in card
    assert r"| Q4\_K\_M + q8\_0 | 1,234 | 97.5% | 90.0% to 99.5% | 29.0% | – | 75.0% |" in card
    assert "](ladder/ladder.png)" in card
    checkpoint["sha256"] = "0" * 64
    path.write_text(json.dumps(results), encoding="utf-8")
    with pytest.raises(RunDirError, match=r"results\.json': were measured with another.*metadeploy ladder again"):
        write_card(run)


def replaced(run: RunDir, change: Callable[[dict[str, Any]], object]) -> Path:
    path = run.path / "eval" / "results_1.json"
    results = json.loads(path.read_text(encoding="utf-8"))
    change(results)
    path.write_text(json.dumps(results), encoding="utf-8")
    return path


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda results: results.update(schema=2),
            r"results_1\.json': are of another kind, expected results of metadeploy eval, version 1",
        ),
        (
            lambda results: results.pop("metrics"),
            r"results_1\.json': lack metrics, expected results of metadeploy eval, version 1",
        ),
        (
            lambda results: results.pop("mcnemar"),
            r"results_1\.json': lack mcnemar, expected results of metadeploy eval, version 1",
        ),
        (lambda results: results.update(mcnemar={}), r"cannot be read \(TypeError"),
        (lambda results: results["threshold"].pop("value"), r"cannot be read \(LookupError: .*value"),
        (lambda results: results["metrics"].pop("auroc"), r"cannot be read \(KeyError: 'auroc'\)"),
        (lambda results: results.update(metrics=[]), r"cannot be read \(TypeError"),
        (lambda results: results.update(baselines=[{"name": "x"}]), r"cannot be read \(KeyError"),
        (
            lambda results: results["config"]["wrapper"].update(name="other.pt", sha256="1" * 64),
            r"another other\.pt than the one in the run directory",
        ),
        (
            lambda results: results["config"]["wrapper"].update(sha256="0" * 64),
            r"another doubter_checkpoint\.pt than the one in the run directory \(hint: run metadeploy eval again",
        ),
    ],
)
def test_results_that_cannot_be_trusted_make_no_card(
    run: RunDir, change: Callable[[dict[str, Any]], object], message: str
) -> None:
    replaced(run, change)
    with pytest.raises(RunDirError, match=message):
        write_card(run)
    assert not (run.path / "README.md").exists()


def test_results_that_are_no_json(run: RunDir) -> None:
    path = run.path / "eval" / "results_0.json"
    for content, message in (
        ("{", "is not JSON"),
        ("[" * 200_000, "is not JSON: nested deeper"),
        ("[]", "are of another kind"),
    ):
        path.write_text(content, encoding="utf-8")
        with pytest.raises(RunDirError, match=rf"results_0\.json': {message}"):
            write_card(run)


@pytest.mark.parametrize("package", ["huggingface_hub", "jinja2"])
def test_a_missing_package_is_named(run: RunDir, package: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(
        MissingDependencyError, match=rf"{package} is not installed \(pip install 'metadeploy\[eval\]'\)"
    ):
        write_card(run)


def test_other_questions_have_no_split(run: RunDir) -> None:
    replaced(run, lambda results: results["config"].update(questions="/data/mine.jsonl"))
    card = written(run)
    assert "### mine (PyTorch, bfloat16)" in card
    assert "It was not measured on other kinds" not in card
    assert "/data" not in card
    replaced(run, lambda results: results["config"].update(questions="facts", source="/data/another copy.jsonl"))
    assert "### facts (PyTorch, bfloat16)" in written(run)
    (run.path / "eval" / "results_1.json").unlink()
    assert "It was not measured on other kinds" in written(run)
    (run.path / "eval" / "results_0.json").unlink()
    assert "in PyTorch only" not in written(run)
