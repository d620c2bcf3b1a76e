"""`metadeploy card`: writes the README.md of a run directory for the Hugging Face hub."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shlex
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from metadeploy._files import refuse_overwriting, write_atomically
from metadeploy._format import METRICS, count, p_value
from metadeploy.card import markdown, tables
from metadeploy.card.caveats import caveats
from metadeploy.card.facts import Evaluation, ListedFile, Measured, hub_id, list_files, read_measured, short_name
from metadeploy.card.training import training_table
from metadeploy.checkpoint.run_dir import RunDir
from metadeploy.errors import Error, MissingDependencyError, RunDirError
from metadeploy.sidecar import read_sidecar
from metadeploy.sidecar.spec import DEFAULT_REFUSAL_TEXT

__all__ = ["CardReport", "write_card"]

_TEMPLATE: Final = Path(__file__).with_name("card.md.jinja")
_TAGS: Final = ("meta-spider", "gguf", "llama.cpp", "selective-prediction", "abstention", "calibration")
#: The last line of a card. It has the hash of the text before it, so that an edit can be detected.
_SIGNATURE: Final = re.compile(r"<!-- written by metadeploy card, ([0-9a-f]{64}) -->\n\Z")
_PICTURES: Final = (
    ("risk_coverage", "Selective accuracy against coverage, with the baselines"),
    ("doubt", "Doubt of right and wrong answers"),
    ("categories", "Accuracy and coverage by kind of question"),
)


@dataclass(frozen=True)
class CardReport:
    """The result of `write_card`.

    Attributes:
        path: the card.
        n_results: number of results files whose figures it shows.
        notes: what the card lacks, and how to add it.
    """

    path: Path
    n_results: int
    notes: tuple[str, ...]


def write_card(
    run: RunDir,
    *,
    output: Path | None = None,
    name: str | None = None,
    base_model: str | None = None,
    license_id: str | None = None,
    force: bool = False,
) -> CardReport:
    """Write a model card for a run directory.

    Args:
        run: the run directory; results are optional.
        output: the card; None for README.md in the run directory. The links in the card are relative to it.
        name: title of the card; None for a title with the base's name.
        base_model: hub id of the base, for the front matter; None for run.json's model name, if it is a hub id.
        license_id: SPDX identifier of the wrapper's license; None for run.json's.
        force: replace a file that another program wrote, or that was edited.

    Raises:
        RunDirError: a results file cannot be read or belongs to another wrapper, the wrapper was trained on other
            questions than those in the run directory, or the card has been edited.
        MissingDependencyError: huggingface_hub or Jinja2 is not installed.
        Error: ``base_model`` is not a hub id, or the card would replace a file that it lists.
    """
    output = output or run.path / "README.md"
    _refuse_edited(output, force)
    if base_model is not None and hub_id(base_model) is None:
        raise Error(f"card: --base-model is '{base_model}', expected a hub id such as owner/name")
    run.refuse_stale_checkpoint()
    run.refuse_stale_sidecar()
    files = list_files(run)
    refuse_overwriting(output, *(run.path / file.name for file in files), what="card")
    model_name = str(run.manifest.get("model_name") or "an unnamed base")
    base_model = base_model or hub_id(model_name)
    license_id = license_id or run.manifest.get("license")
    base = base_model or short_name(model_name)
    name = name or f"Doubter for {base.rpartition('/')[2].removesuffix('.gguf')}"
    try:
        measured = read_measured(run, files)
        text = _render(
            run,
            measured,
            files,
            front_matter=_front_matter(measured, name, base_model, license_id),
            name=name,
            base=base,
            folder=output.parent,
        )
    except (LookupError, TypeError, ValueError, AttributeError, ArithmeticError) as error:
        raise RunDirError(
            f"run directory '{run.path}': its results or run.json cannot be read ({type(error).__name__}: {error}), "
            "expected files of metadeploy collect, train and eval (hint: run metadeploy eval again)"
        ) from error
    write_atomically(output, text + _signature(text))
    n_results = len(measured.evaluations) + len(measured.repetitions) + (measured.ladder is not None)
    return CardReport(output, n_results, tuple(_notes(measured, base_model, license_id)))


def _refuse_edited(path: Path, force: bool) -> None:
    if force or not path.exists():
        return
    text = path.read_bytes().decode(errors="replace")
    match = _SIGNATURE.search(text)
    if match is None or text != text[: match.start()] + _signature(text[: match.start()]):
        raise RunDirError(
            f"card '{path}': was written or edited by someone else, expected an unchanged card of metadeploy card "
            "(hint: --force replaces it, -o writes elsewhere)"
        )


def _signature(text: str) -> str:
    return f"<!-- written by metadeploy card, {hashlib.sha256(text.encode()).hexdigest()} -->\n"


def _front_matter(measured: Measured, name: str, base_model: str | None, license_id: str | None) -> str:
    """Return the YAML block that the hub reads."""
    try:
        from huggingface_hub import ModelCardData
    except ImportError as error:
        raise _missing("huggingface_hub") from error
    results = [result for evaluation in measured.evaluations for result in _eval_results(evaluation)]
    data = ModelCardData(
        base_model=base_model,
        base_model_relation="adapter" if base_model else None,
        license=license_id.lower() if license_id else None,
        library_name="metadeploy",
        pipeline_tag="text-generation",
        tags=list(_TAGS),
        model_name=name,
        eval_results=results or None,
    )
    if not results:
        data.model_name = None  # it belongs to the model-index, which needs results
    return str(data.to_yaml())


def _eval_results(evaluation: Evaluation) -> Iterator[Any]:
    from huggingface_hub import EvalResult

    for key, title in ((key, title) for key, title, _ in METRICS if key in tables.HEADLINES):
        row = evaluation.results["metrics"][key]
        if row["value"] is not None:
            yield EvalResult(
                task_type="text-generation",
                dataset_type=evaluation.dataset,
                dataset_name=evaluation.title,
                dataset_config=evaluation.engine,
                dataset_split=evaluation.split if evaluation.is_own else None,
                metric_type=key,
                metric_name=f"{title.partition(':')[0]} (n = {row['n']:,})",
                metric_value=round(row["value"], 4),
            )


def _render(
    run: RunDir,
    measured: Measured,
    files: list[ListedFile],
    *,
    front_matter: str,
    name: str,
    base: str,
    folder: Path,
) -> str:
    try:
        from jinja2 import Environment, StrictUndefined, UndefinedError
    except ImportError as error:
        raise _missing("jinja2") from error

    # no autoescape, because the output is Markdown: the template applies `md` or `code` to every text from a file
    environment = Environment(undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True, autoescape=False)
    environment.filters |= {
        "md": markdown.escape,
        "code": markdown.code,
        "count": count,
        "p_value": p_value,
        "sh": shlex.quote,
        "string_literal": lambda text: json.dumps(text, ensure_ascii=False),
        "metrics": tables.metrics_table,
        "baselines": tables.baselines_table,
        "entities": tables.entities,
        "least_doubted": tables.least_doubted_table,
        "categories": tables.categories_table,
        "repeated": tables.repeated_table,
        "repeated_baselines": tables.repeated_baselines_table,
        "ladder": tables.ladder_table,
        "files": tables.files_table,
    }
    names = {file.name for file in files}

    def picture(alternative: str, name: str) -> str | None:
        relative = os.path.relpath(run.path / name, folder).replace(os.sep, "/")
        return markdown.image(alternative, relative) if name in names else None

    left_out = (run.manifest.get("train") or {}).get("leave_out", ())

    def unseen(evaluation: Evaluation) -> dict[str, Any]:
        return {name: row for name, row in evaluation.results["categories"].items() if name in left_out}

    def pictures(evaluation: Evaluation) -> list[str]:
        images = (
            picture(alternative, f"eval/{plot}")
            for kind, alternative in _PICTURES
            for plot in evaluation.results["plots"]
            if plot.startswith(f"{kind}_")
        )
        return [image for image in images if image is not None]

    template = environment.from_string(_TEMPLATE.read_text(encoding="utf-8"))
    values = dict(
        front_matter=front_matter,
        name=name,
        base=_base_link(base),
        refusal=_refusal(run),
        measured=measured,
        caveats=list(_caveats(measured, base, knows_all_kinds=not left_out)),
        base_file=_base_file(run.manifest, measured),
        has_sidecar=run.sidecar.name in names,
        has_checkpoint="doubter_checkpoint.pt" in names,
        files=files,
        training=training_table(run.manifest),
        ladder_picture=picture("Agreement and selective accuracy of each type", "ladder/ladder.png"),
        curves=picture("Loss and validation figures of each epoch", "train/curves.png"),
        pictures=pictures,
        unseen=unseen,
    )
    try:
        text = template.render(values)
    except UndefinedError as error:
        raise LookupError(str(error)) from error
    return re.sub(r"\n{3,}", "\n\n", text).rstrip("\n") + "\n\n"


def _caveats(measured: Measured, base: str, *, knows_all_kinds: bool) -> Iterator[str]:
    """Yield the caveats of every Doubter, and of the evaluations given."""
    yield (
        f"It works only with {_base_link(base)} and its quantizations. Any other model, even one that was fine-tuned "
        "from it, has other activations, which it was not trained to read."
    )
    yield "It can only decline. If it answers, the answer is the base's and may be wrong."
    if not measured.evaluations:
        return
    if knows_all_kinds and all(evaluation.is_own for evaluation in measured.evaluations):
        yield "All figures are from the run's own questions. It was not measured on other kinds of question."
    engines = {evaluation.results["config"]["engine"] for evaluation in measured.evaluations}
    if engines == {"torch"}:
        yield "It was measured in PyTorch only. A quantized base in llama.cpp makes other decisions on some questions."
    yield from caveats(measured.evaluations)


def _refusal(run: RunDir) -> str:
    """Return the refusal of the sidecar, or of run.json if there is no sidecar. The two may differ."""
    if run.sidecar.exists():
        return read_sidecar(run.sidecar).config.refusal_text
    return str(run.manifest.get("refusal_text") or DEFAULT_REFUSAL_TEXT)


def _base_link(base: str) -> str:
    """Format the base as a link or as code."""
    return f"[{markdown.escape(base)}](https://huggingface.co/{base})" if hub_id(base) else markdown.code(base)


def _base_file(manifest: Mapping[str, Any], measured: Measured) -> str:
    """Return the name of a GGUF of the base: a measured one, or else run.json's."""
    names = [evaluation.results["config"]["base"]["name"] for evaluation in measured.evaluations]
    names.append(short_name(str(manifest.get("model_name") or "")))
    return next((name for name in names if name.lower().endswith(".gguf")), "base.gguf")


def _notes(measured: Measured, base_model: str | None, license_id: str | None) -> Iterator[str]:
    if not measured:
        yield "there are no results: the card has no figures (metadeploy eval measures)"
    if base_model is None:
        yield "the base is a file, not a hub id: the card does not link it (--base-model owner/name)"
    if license_id is None:
        yield "no license is named (--license MIT)"


def _missing(package: str) -> MissingDependencyError:
    return MissingDependencyError(f"metadeploy card: {package} is not installed (pip install 'metadeploy[eval]')")
