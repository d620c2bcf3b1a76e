"""A whole run directory in seconds: a tiny random base, questions that it gets partly right, and a random wrapper."""

from __future__ import annotations

import math
import re
import string
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import gguf
import numpy as np
from transformers.utils import logging

from metadeploy import MetaLlama
from metadeploy.checkpoint.run_dir import SPLITS, RunDir
from metadeploy.data.checker import is_correct
from metadeploy.data.question import Question, write_jsonl
from metadeploy.export import export
from metadeploy.sidecar.spec import InjectFrom
from metadeploy.training.collect import CollectSettings, collect
from support.gguf_tools import dequantize_gguf, write_tiny_gguf
from support.parity import EXACT
from support.random_wrapper import random_wrapper, save_checkpoint

#: Short sentences of small letters; sometimes a capital I, with which every refusal begins.
_SAID = {*string.ascii_lowercase, "I", "Ġ", ".", "<eos>"}
_SUBJECTS = "the wind,a stone,my boat,old bread,red ink,cold tea,deep snow,tin,salt,wool,rust,chalk,moss,clay"
_KINDS = {"colour": "What colour is {}?", "weight": "How heavy is {}?", "place": "Where is {} from?"}
MAX_NEW_TOKENS = 16


def write_speaking_gguf(path: Path, *, seed: int = 3) -> None:
    """Write a tiny F32 base that generates small letters, spaces and full stops."""
    quantized = path.with_suffix(".q8_0")
    write_tiny_gguf(quantized, seed=seed)
    dequantize_gguf(quantized, path)
    quantized.unlink()
    reader = gguf.GGUFReader(path, mode="r+")
    tokens: list[str] = reader.fields["tokenizer.ggml.tokens"].contents()
    (output,) = (tensor for tensor in reader.tensors if tensor.name == "output.weight")
    for row, token in enumerate(tokens):
        output.data[row] *= (1.5 if token in "Ġ." else 1.0) if token in _SAID else 0.0
    reader.data.flush()


def write_tiny_run(folder: Path, *, inject_from: InjectFrom = "last_prompt_token") -> RunDir:
    """Collect with the real code and add a random wrapper that declines about half of the questions.

    Args:
        folder: the folder to write to.
        inject_from: start of the wrapper's injection.

    Returns:
        The run directory, with 14 questions of each of three categories in every split.
    """
    logging.disable_progress_bar()
    base = folder / "base.gguf"
    folder.mkdir(parents=True)
    write_speaking_gguf(base)
    questions = folder / "questions"
    questions.mkdir()
    with MetaLlama(base, **EXACT) as llm:
        for split in SPLITS:
            write_jsonl(questions / f"{split}.jsonl", _questions(llm, split))
    run = RunDir(folder, create=True)
    collect(
        run,
        CollectSettings(
            base=str(base),
            questions=str(questions),
            layers="all",
            dtype="float32",
            device="cpu",
            max_new_tokens=MAX_NEW_TOKENS,
        ),
    )
    _write_wrapper(run, base, inject_from)
    return run


def _questions(llm: MetaLlama, split: str) -> Iterator[Question]:
    """Return questions, of which every other one accepts a word of the base's answer."""
    for kind, wording in _KINDS.items():
        for number, subject in enumerate(_SUBJECTS.split(",")):
            text = wording.format(f"{subject} ({split})")
            answers = ("nothing of the sort",)
            if number % 2:
                answer = llm.generate(text, max_tokens=MAX_NEW_TOKENS).text
                words = [(word,) for word in re.findall(r"\w+", answer)]
                answers = next((word for word in words if is_correct(Question(text, word, kind), answer)), answers)
            yield Question(text, answers, kind, f"{subject} {split}")


def _write_wrapper(run: RunDir, base: Path, inject_from: InjectFrom) -> None:
    config, tensors = random_wrapper(
        "selective",
        hidden_dim=32,
        target_layers=(0, 1, 2),
        cross_attn_layers=(1, 2),
        num_layers=3,
        inject_from=inject_from,
    )
    checkpoint = save_checkpoint(run.path, config, tensors, run_json=False)
    run.update({key: list(getattr(config, key)) for key in ("target_layers", "cross_attn_layers")})
    sidecar = export(checkpoint).path
    prompts = [wording.format(subject) for wording in _KINDS.values() for subject in _SUBJECTS.split(",")]
    with MetaLlama(base, sidecar, **EXACT) as llm:
        doubts = [llm.doubt(question) for question in prompts]
    bias = -float(np.median([math.log(doubt / (1 - doubt)) for doubt in doubts]))
    save_checkpoint(run.path, replace(config, refusal_bias=bias), tensors, run_json=False)
    export(checkpoint, force=True)
