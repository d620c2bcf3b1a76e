"""`metadeploy collect`: record the base's own answer and activations for every question of a set.

For each question, the clean pass gives the activations of the layers at the last prompt token and the greedy answer
with the log-probabilities of its tokens. The answer is then scored as right or wrong. The questions are processed in
chunks. Each chunk is written when it is complete, so an interrupted run loses at most one chunk and repeats none.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import torch
from safetensors.torch import load_file

from metadeploy._exact import percent
from metadeploy._files import write_atomically
from metadeploy._tensor_files import save_tensors
from metadeploy.batched.clean_pass import CleanPass
from metadeploy.batched.greedy import GreedyAnswer
from metadeploy.batched.prefix import SharedPrefix
from metadeploy.batched.upper_blocks import cut_faults
from metadeploy.checkpoint.layers import parse_layers
from metadeploy.checkpoint.run_dir import SPLITS, RunDir, base_digest
from metadeploy.data.answers import extract_answer, stop_when_complete
from metadeploy.data.checker import is_correct, uses_full_answer
from metadeploy.data.question import Question
from metadeploy.data.splits import load_set, sample_questions
from metadeploy.errors import RunDirError, faults_message
from metadeploy.reference.base import FrozenBase, eos_ids
from metadeploy.reference.config import MetaSpiderConfig
from metadeploy.reference.loading import load_base
from metadeploy.reference.prompts import render_chat
from metadeploy.training.records import Collected, Record, read_records
from metadeploy.training.settings import CollectSettings

__all__ = ["CHUNK", "CollectSettings", "collect", "contrast_warnings"]

#: Questions of one chunk: an interruption loses at most these, and each part file holds these.
CHUNK: Final = 512
#: With a smaller proportion of right or of wrong answers than this, training has too little to learn from.
_MIN_CONTRAST: Final = 0.05

#: Called with the number of questions that are done, and of all questions.
Progress = Callable[[int, int], None]


def collect(
    run: RunDir,
    settings: CollectSettings,
    *,
    restart: bool = False,
    progress: Progress | None = None,
    say: Callable[[str], None] | None = None,
) -> list[str]:
    """Run the clean pass over a question set and write the results into the run directory.

    Args:
        run: the run directory. A run with the same settings that was interrupted continues.
        settings: what to collect.
        restart: delete earlier collected data first; nothing is deleted if the questions or the base cannot be loaded.
        progress: called before the first batch and after each one.
        say: called with warnings that concern the settings, before the work starts.

    Returns:
        Warnings about the collected answers, each with its likely cause.

    Raises:
        RunDirError: the directory was collected with other settings.
        ModelLoadError: the base cannot be loaded.
    """
    _refuse_own_questions(run, settings)
    splits = load_set(settings.questions, seed=settings.seed, source=settings.source)
    splits = {name: sample_questions(list(splits[name]), settings.limit, settings.seed) for name in SPLITS}
    requested = {
        **_as_json(settings),
        "base_sha256": base_digest(settings.base),
        "questions_sha256": _questions_digest(splits),
    }
    if not restart:
        _check_same(run, requested)
    total = sum(map(len, splits.values()))
    if not restart and all((run.collect / f"{name}.jsonl").exists() for name in SPLITS):
        shutil.rmtree(run.collect / "parts", ignore_errors=True)  # a run that was killed at its end left them
        if progress is not None:
            progress(total, total)
        return contrast_warnings({name: Collected.read(run.collect, name).records for name in SPLITS})

    if say is not None and settings.answer_suffix is None and any(question.choices for question in splits["train"]):
        say(
            "warning: the questions have choices. An answer that names no letter or more than one is wrong, so you may "
            "want to ask the base for just one (hint: --answer-suffix ' Answer with the letter only.')"
        )
    model, tokenizer = load_base(
        MetaSpiderConfig(
            model_name=settings.base, device=settings.device, dtype=settings.dtype, quantization=settings.quantization
        )
    )
    base = FrozenBase(model)
    if say is not None and (faults := cut_faults(base)):
        say(f"warning: metadeploy train will refuse this base: {'; '.join(faults)}")
    try:
        layers = parse_layers(settings.layers, num_layers=base.num_layers)
    except ValueError as error:
        raise RunDirError(f"collect: --layers {error}") from error
    if restart:
        _discard(run)
    run.update(
        {
            "model_name": settings.base,
            "hidden_dim": base.stack.hidden_dim,
            "num_layers": base.num_layers,
            "dtype": settings.dtype,
            "quantization": settings.quantization,
            "dataset": settings.questions,
            **{f"{name}_size": len(splits[name]) for name in SPLITS},
            "prompt_format": "auto",
            "answer_suffix": settings.answer_suffix,
            "chat_template_kwargs": dict(settings.chat_template_kwargs) or None,
            "collect": {**requested, "layers": list(layers)},
        }
    )

    prompts = {
        name: [
            tokenizer(
                render_chat(
                    tokenizer,
                    question.question,
                    answer_suffix=settings.answer_suffix,
                    template_kwargs=settings.chat_template_kwargs,
                ),
                add_special_tokens=False,
            )["input_ids"]
            for question in splits[name]
        ]
        for name in SPLITS
    }
    prefix = SharedPrefix.of(base, [prompt for name in SPLITS for prompt in prompts[name]])
    clean_pass = CleanPass(base, layers=layers, stop_ids={*base.stop_ids, *eos_ids(tokenizer)}, prefix=prefix)
    chunks = [
        (run.collect / "parts" / f"{name}-{number:04d}", name, slice(start, start + CHUNK))
        for name in SPLITS
        for number, start in enumerate(range(0, len(splits[name]), CHUNK))
    ]
    remaining = [chunk for chunk in chunks if not chunk[0].with_suffix(".jsonl").exists()]
    n_done = total - sum(len(splits[name][rows]) for _, name, rows in remaining)

    def report_progress(n_in_chunk: int) -> None:
        if progress is not None:
            progress(n_done + n_in_chunk, total)

    report_progress(0)
    for part, name, rows in remaining:
        _collect_chunk(part, splits[name][rows], prompts[name][rows], clean_pass, tokenizer, settings, report_progress)
        n_done += len(splits[name][rows])
    for name in SPLITS:
        _join_parts(run.collect, name, layers)
    shutil.rmtree(run.collect / "parts", ignore_errors=True)
    records = {name: Collected.read(run.collect, name).records for name in SPLITS}
    return variable_warnings(tokenizer, settings.chat_template_kwargs) + contrast_warnings(records)


def variable_warnings(tokenizer: Any, variables: Mapping[str, Any]) -> list[str]:
    """Return a warning for each variable that the chat template never mentions, for example because of a typo."""
    return [
        f"the chat template does not mention the variable '{name}' (--chat-template-kwargs), so it changes nothing"
        for name in variables
        if name not in str(tokenizer.chat_template)
    ]


def _refuse_own_questions(run: RunDir, settings: CollectSettings) -> None:
    """Refuse questions inside the folder in which collected data is written and deleted."""
    for location in (settings.questions, settings.source):
        if (
            location is not None
            and Path(location).exists()
            and run.collect.resolve()
            in (
                Path(location).resolve(),
                *Path(location).resolve().parents,
            )
        ):
            raise RunDirError(
                f"questions '{location}': are in '{run.collect}', the folder for collected data, expected another "
                "folder (an output never replaces its own input)"
            )


def _discard(run: RunDir) -> None:
    """Delete the files and manifest entry that `collect` wrote into a run directory, and nothing else."""
    for name in SPLITS:
        for suffix in ("jsonl", "safetensors"):
            (run.collect / f"{name}.{suffix}").unlink(missing_ok=True)
    shutil.rmtree(run.collect / "parts", ignore_errors=True)
    if "collect" in run.manifest:
        run.update({"collect": None})


def _collect_chunk(
    part: Path,
    questions: Sequence[Question],
    prompts: Sequence[Sequence[int]],
    clean_pass: CleanPass,
    tokenizer: Any,
    settings: CollectSettings,
    progress: Callable[[int], None],
) -> None:
    """Answer the questions of a chunk in batches of similar length, and write them in the order of the set."""

    def text(token_ids: Sequence[int]) -> str:
        decoded: str = tokenizer.decode(token_ids, skip_special_tokens=True)
        return decoded

    order = sorted(range(len(questions)), key=lambda index: len(prompts[index]))
    activations: dict[int, torch.Tensor] = {}
    records: dict[int, Record] = {}
    for start in range(0, len(order), settings.batch_size):
        batch = order[start : start + settings.batch_size]
        whole = [uses_full_answer(questions[index], whole=settings.whole_answer) for index in batch]
        batch_activations, answers = clean_pass.run(
            [prompts[index] for index in batch],
            max_new_tokens=settings.max_new_tokens,
            is_complete=stop_when_complete(text, whole),
        )
        for index, row, answer, is_whole in zip(batch, batch_activations, answers, whole, strict=True):
            activations[index] = row
            records[index] = _record(questions[index], answer, text, whole=is_whole)
        progress(len(records))
    stacked = torch.stack([activations[i] for i in range(len(questions))])
    save_tensors(part.with_suffix(".safetensors"), {"activations": stacked})
    # write the text last: a chunk counts as complete if its text file exists
    write_atomically(part.with_suffix(".jsonl"), "".join(records[i].to_json() + "\n" for i in range(len(questions))))


def _record(question: Question, answer: GreedyAnswer, text: Callable[[Sequence[int]], str], *, whole: bool) -> Record:
    extracted = extract_answer(answer.token_ids, text, ended=answer.ended, whole=whole)
    return Record(
        question=question,
        answer=extracted.text,
        answer_ids=answer.token_ids[: extracted.n_tokens],
        logprobs=answer.logprobs[: extracted.n_tokens],
        complete=extracted.complete,
        correct=is_correct(question, extracted.text, whole=whole),
    )


def _join_parts(folder: Path, name: str, layers: Sequence[int]) -> None:
    """Join the parts of a split into one pair of files."""
    parts = sorted((folder / "parts").glob(f"{name}-*.jsonl"))
    tensors = [load_file(part.with_suffix(".safetensors"))["activations"] for part in parts]
    Collected.write(
        folder,
        name,
        [record for part in parts for record in read_records(part)],
        torch.cat(tensors),
        layers,
    )


def contrast_warnings(records: Mapping[str, Sequence[Record]]) -> list[str]:
    """Return warnings about sets that are unfit for training: too few right or wrong answers, or answers cut off."""
    warnings = []
    for name, group in records.items():
        if not group:
            continue
        accuracy = sum(record.correct for record in group) / len(group)
        cut_off = sum(not record.complete for record in group) / len(group)
        if accuracy < _MIN_CONTRAST or accuracy > 1 - _MIN_CONTRAST:
            rare = "right" if accuracy < _MIN_CONTRAST else "wrong"
            if rare == "wrong":
                cause = "questions too easy for this base"
            elif cut_off > 0.5:
                cause = "answers cut off by --max-new-tokens"
            else:
                cause = (
                    "questions too hard, or a thinking model that was not instructed to answer directly "
                    "(--chat-template-kwargs, --answer-suffix)"
                )
            warnings.append(
                f"{name}: the base got {percent(accuracy)}% of {len(group)} questions right. With so few {rare} "
                f"answers, a Doubter has little to learn from (likely cause: {cause})"
            )
        if cut_off > 0.25:
            warnings.append(
                f"{name}: {percent(cut_off, 0)}% of the answers reached --max-new-tokens before they were complete"
            )
    return warnings


def _as_json(settings: CollectSettings) -> dict[str, Any]:
    """Return the settings as a JSON object."""
    return dict(json.loads(json.dumps(dataclasses.asdict(settings))))


def _questions_digest(splits: Mapping[str, Sequence[Question]]) -> str:
    """Return a digest that is equal for sets with the same questions."""
    return hashlib.sha256(
        json.dumps([[name, [dataclasses.astuple(question) for question in splits[name]]] for name in SPLITS]).encode()
    ).hexdigest()


def _check_same(run: RunDir, requested: Mapping[str, Any]) -> None:
    """Refuse to mix data that was collected with different settings."""
    previous = run.manifest.get("collect")
    if previous is None:
        return
    # device and batch size do not change the results; the others are compared below
    ignored = {"device", "batch_size", "layers", "base_sha256", "questions_sha256"}
    faults = [
        f"was collected with {key} {json.dumps(previous.get(key))}, asked for {json.dumps(requested[key])}"
        for key in requested
        if key not in ignored and previous.get(key) != requested[key]
    ]
    if not faults and previous.get("questions_sha256") != requested["questions_sha256"]:
        faults.append(f"was collected with other questions than '{requested['questions']}' has now")
    if not faults and previous.get("base_sha256", requested["base_sha256"]) != requested["base_sha256"]:
        faults.append(f"was collected with another base than '{requested['base']}' is now")
    try:
        layers = parse_layers(requested["layers"], num_layers=run.manifest.get("num_layers"))
    except ValueError as error:
        raise RunDirError(f"collect: --layers {error}") from error
    if list(layers) != previous.get("layers"):
        faults.append(f"was collected with layers {previous.get('layers')}, asked for {list(layers)}")
    if faults:
        raise RunDirError(
            faults_message(f"run directory '{run.path}'", faults) + "\n(hint: take another folder, or --restart)"
        )
