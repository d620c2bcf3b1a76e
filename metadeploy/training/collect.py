"""`metadeploy collect`: what the base does by itself, for every question of a set.

For each question the clean pass gives the activations of the layers at the last prompt token, the greedy answer with
the log-probabilities of its tokens, and a verdict. Work goes on in chunks, each written when it is done, so that an
interrupted run loses at most one and repeats none.
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
from metadeploy.data.answers import kept_text, when_said
from metadeploy.data.checker import is_correct, is_read_whole
from metadeploy.data.question import Question
from metadeploy.data.splits import drawn, load_set
from metadeploy.errors import RunDirError, faults_message
from metadeploy.reference.base import FrozenBase, eos_ids
from metadeploy.reference.config import MetaSpiderConfig
from metadeploy.reference.loading import load_base
from metadeploy.reference.prompts import render_chat
from metadeploy.training.records import Collected, Record, read_records
from metadeploy.training.settings import CollectSettings

__all__ = ["CHUNK", "CollectSettings", "collect", "contrast_warnings"]

#: Questions of one chunk: what an interruption can cost, and what one file of the parts holds.
CHUNK: Final = 512
#: Fewer right or wrong answers than this share make training pointless.
_LEAST_CONTRAST: Final = 0.05

#: Told how many questions of how many are done.
Progress = Callable[[int, int], None]


def collect(
    run: RunDir,
    settings: CollectSettings,
    *,
    restart: bool = False,
    progress: Progress | None = None,
    say: Callable[[str], None] | None = None,
) -> list[str]:
    """Run the clean pass over a question set, and keep what it finds in the run directory.

    Args:
        run: the run directory.
        settings: what to collect. A directory that holds the beginnings of the same is gone on with.
        restart: delete what was collected there before; nothing is, where questions or base cannot be loaded.
        progress: called before the first batch and after each one.
        say: told what one should know beforehand.

    Returns:
        Warnings: what is odd about the set, with the likely cause.

    Raises:
        RunDirError: the directory was collected with other settings.
        ModelLoadError: the base cannot be loaded.
    """
    _refuse_own_questions(run, settings)
    splits = load_set(settings.questions, seed=settings.seed, source=settings.source)
    splits = {name: drawn(list(splits[name]), settings.limit, settings.seed) for name in SPLITS}
    asked = {**_plain(settings), "base_sha256": base_digest(settings.base), "questions_sha256": _digest(splits)}
    if not restart:
        _check_same(run, asked)
    total = sum(map(len, splits.values()))
    if not restart and all((run.collect / f"{name}.jsonl").exists() for name in SPLITS):
        shutil.rmtree(run.collect / "parts", ignore_errors=True)  # left by a run that was killed at its very end
        if progress is not None:
            progress(total, total)
        return contrast_warnings({name: Collected.read(run.collect, name).records for name in SPLITS})

    if say is not None and settings.answer_suffix is None and any(each.choices for each in splits["train"]):
        say(
            "warning: the questions have choices, and an answer that names no letter, or two, is wrong: most tell the "
            "base to name just one (hint: --answer-suffix ' Answer with the letter only.')"
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
            "collect": {**asked, "layers": list(layers)},
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
    to_do = [chunk for chunk in chunks if not chunk[0].with_suffix(".jsonl").exists()]
    done = total - sum(len(splits[name][where]) for _, name, where in to_do)

    def tell(of_chunk: int) -> None:
        if progress is not None:
            progress(done + of_chunk, total)

    tell(0)
    for part, name, where in to_do:
        _collect_chunk(part, splits[name][where], prompts[name][where], clean_pass, tokenizer, settings, tell)
        done += len(splits[name][where])
    for name in SPLITS:
        _join(run.collect, name, layers)
    shutil.rmtree(run.collect / "parts", ignore_errors=True)
    records = {name: Collected.read(run.collect, name).records for name in SPLITS}
    return variable_warnings(tokenizer, settings.chat_template_kwargs) + contrast_warnings(records)


def variable_warnings(tokenizer: Any, variables: Mapping[str, Any]) -> list[str]:
    """Return a warning for each variable that the chat template never mentions, such as a typing error."""
    return [
        f"the chat template does not mention the variable '{name}' (--chat-template-kwargs), so it changes nothing"
        for name in variables
        if name not in str(tokenizer.chat_template)
    ]


def _refuse_own_questions(run: RunDir, settings: CollectSettings) -> None:
    """Refuse questions inside the folder where collected data are written and deleted."""
    for given in (settings.questions, settings.source):
        if (
            given is not None
            and Path(given).exists()
            and run.collect.resolve()
            in (
                Path(given).resolve(),
                *Path(given).resolve().parents,
            )
        ):
            raise RunDirError(
                f"questions '{given}': lie in '{run.collect}', where what is collected is written, expected another "
                "place (an output never replaces what it is made of)"
            )


def _discard(run: RunDir) -> None:
    """Delete what `collect` wrote into a run directory, and nothing else."""
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
    """Answer a chunk's questions, those of like length together, and write them in the order of the set."""

    def text(token_ids: Sequence[int]) -> str:
        decoded: str = tokenizer.decode(token_ids, skip_special_tokens=True)
        return decoded

    order = sorted(range(len(questions)), key=lambda index: len(prompts[index]))
    activations: dict[int, torch.Tensor] = {}
    records: dict[int, Record] = {}
    for start in range(0, len(order), settings.batch_size):
        batch = order[start : start + settings.batch_size]
        whole = [is_read_whole(questions[index], whole=settings.whole_answer) for index in batch]
        found, answers = clean_pass.run(
            [prompts[index] for index in batch],
            max_new_tokens=settings.max_new_tokens,
            is_complete=when_said(text, whole),
        )
        for index, row, answer, all_of_it in zip(batch, found, answers, whole, strict=True):
            activations[index] = row
            records[index] = _record(questions[index], answer, text, whole=all_of_it)
        progress(len(records))
    stacked = torch.stack([activations[i] for i in range(len(questions))])
    save_tensors(part.with_suffix(".safetensors"), {"activations": stacked})
    # the text last: a chunk counts as done where it is there
    write_atomically(part.with_suffix(".jsonl"), "".join(records[i].to_json() + "\n" for i in range(len(questions))))


def _record(question: Question, answer: GreedyAnswer, text: Callable[[Sequence[int]], str], *, whole: bool) -> Record:
    kept = kept_text(answer.token_ids, text, ended=answer.ended, whole=whole)
    return Record(
        question=question,
        answer=kept.text,
        answer_ids=answer.token_ids[: kept.n_tokens],
        logprobs=answer.logprobs[: kept.n_tokens],
        complete=kept.complete,
        correct=is_correct(question, kept.text, whole=whole),
    )


def _join(folder: Path, name: str, layers: Sequence[int]) -> None:
    """Make one pair of files of a split's parts."""
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
    """What makes a set unfit for training: hardly any right or hardly any wrong answers, and answers cut off."""
    warnings = []
    for name, found in records.items():
        if not found:
            continue
        share = sum(record.correct for record in found) / len(found)
        cut = sum(not record.complete for record in found) / len(found)
        if share < _LEAST_CONTRAST or share > 1 - _LEAST_CONTRAST:
            what = "right" if share < _LEAST_CONTRAST else "wrong"
            causes = (
                "answers cut off by --max-new-tokens"
                if cut > 0.5
                else "questions too hard, or a thinking model that "
                "was not told to answer directly (--chat-template-kwargs, --answer-suffix)"
            )
            cause = causes if what == "right" else "questions too easy for this base"
            warnings.append(
                f"{name}: the base got {percent(share)}% of {len(found)} questions right, hardly any {what}: a Doubter "
                f"has little to learn from that (likely cause: {cause})"
            )
        if cut > 0.25:
            warnings.append(
                f"{name}: {percent(cut, 0)}% of the answers reached --max-new-tokens before they were complete"
            )
    return warnings


def _plain(settings: CollectSettings) -> dict[str, Any]:
    """The settings as JSON has them."""
    return dict(json.loads(json.dumps(dataclasses.asdict(settings))))


def _digest(splits: Mapping[str, Sequence[Question]]) -> str:
    """Says whether two sets hold the same questions."""
    return hashlib.sha256(
        json.dumps([[name, [dataclasses.astuple(each) for each in splits[name]]] for name in SPLITS]).encode()
    ).hexdigest()


def _check_same(run: RunDir, asked: Mapping[str, Any]) -> None:
    """Refuse to mix what was collected in different ways."""
    before = run.manifest.get("collect")
    if before is None:
        return
    # where and in what portions it is computed changes nothing about what is asked for
    ignored = {"device", "batch_size", "layers", "base_sha256", "questions_sha256"}
    faults = [
        f"was collected with {key} {json.dumps(before.get(key))}, asked for {json.dumps(asked[key])}"
        for key in asked
        if key not in ignored and before.get(key) != asked[key]
    ]
    if not faults and before.get("questions_sha256") != asked["questions_sha256"]:
        faults.append(f"was collected with other questions than '{asked['questions']}' has now")
    if not faults and before.get("base_sha256", asked["base_sha256"]) != asked["base_sha256"]:
        faults.append(f"was collected with another base than '{asked['base']}' is now")
    try:
        layers = parse_layers(asked["layers"], num_layers=run.manifest.get("num_layers"))
    except ValueError as error:
        raise RunDirError(f"collect: --layers {error}") from error
    if list(layers) != before.get("layers"):
        faults.append(f"was collected with layers {before.get('layers')}, asked for {list(layers)}")
    if faults:
        raise RunDirError(
            faults_message(f"run directory '{run.path}'", faults) + "\n(hint: take another folder, or --restart)"
        )
