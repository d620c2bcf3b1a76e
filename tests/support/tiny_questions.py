"""A tiny base that answers in short sentences of small letters, and questions of which it gets half right."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

from transformers.utils import logging

from metadeploy.data.checker import is_correct
from metadeploy.data.question import Question, write_jsonl
from metadeploy.reference import MetaSpiderConfig, MetaSpiderPipeline
from metadeploy.training.settings import CollectSettings
from support.tiny_run import write_speaking_gguf

MAX_NEW_TOKENS = 12
_WORDS = "wind,stone,boat,bread,ink,tea,snow,tin,salt,wool,rust,chalk,moss,clay,rope,sand,soap,coal,silk,oak"
_KINDS = {"colour": "What colour is {}?", "weight": "How heavy is {}?", "place": "Where is {} from?"}


def collect_settings(base: Path, questions: Path) -> CollectSettings:
    """Return settings: all layers, in F32 on the CPU."""
    return CollectSettings(
        base=str(base),
        questions=str(questions),
        layers="all",
        dtype="float32",
        device="cpu",
        max_new_tokens=MAX_NEW_TOKENS,
    )


def write_base_and_questions(folder: Path, *, per_category: int = 20) -> tuple[Path, Path]:
    """Write ``base.gguf`` (llama, F32, 3 blocks, width 32) and ``questions.jsonl``.

    Args:
        folder: the folder to write to; created if missing.
        per_category: at most 20. Every other question accepts a word of the base's answer.

    Returns:
        The two files.
    """
    logging.disable_progress_bar()
    folder.mkdir(parents=True, exist_ok=True)
    base, questions = folder / "base.gguf", folder / "questions.jsonl"
    write_speaking_gguf(base)
    pipe = MetaSpiderPipeline.from_pretrained(MetaSpiderConfig(model_name=str(base), device="cpu", dtype="float32"))
    answerable = []
    for kind, wording in _KINDS.items():
        for number, word in enumerate(_WORDS.split(",")[:per_category]):
            question = Question(wording.format(word), ("nothing of the sort",), kind, word)
            if number % 2:
                answer = pipe.generate(question.question, max_new_tokens=MAX_NEW_TOKENS)
                tries = (replace(question, answers=(accepted,)) for accepted in re.findall(r"\w+", answer))
                question = next((candidate for candidate in tries if is_correct(candidate, answer)), question)
            answerable.append(question)
    write_jsonl(questions, answerable)
    return base, questions
