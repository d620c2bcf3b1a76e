"""The reference of the rungs: PyTorch in F32 with the weights of the same base file."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

import torch

from metadeploy.data.checker import is_correct
from metadeploy.data.question import Question
from metadeploy.evaluation.engines import DEFAULT_GAIN, Answered, AnswerLimits
from metadeploy.evaluation.engines.torch_engine import TorchEngine
from metadeploy.evaluation.ladder.samples import LadderSample
from metadeploy.evaluation.ladder.vectors import Vectors
from metadeploy.evaluation.samples import declines
from metadeploy.reference.config import MetaSpiderConfig
from metadeploy.reference.doubter import Doubter
from metadeploy.reference.pipeline import MetaSpiderPipeline
from metadeploy.sidecar.spec import DEFAULT_THRESHOLD

__all__ = ["ask_pytorch"]

#: Questions at once: few enough for logits in F32, and for frequent progress.
_BATCH: Final = 32


def ask_pytorch(
    base: Path,
    checkpoint: Path,
    questions: Sequence[tuple[int, Question]],
    *,
    refusal_text: str | None = None,
    limits: AnswerLimits,
    device: str,
    progress: Callable[[int, int], None],
) -> tuple[tuple[LadderSample, ...], Vectors]:
    """Ask the base alone and with its Doubter. Also return the activations and cognitive tokens.

    Args:
        base: a GGUF, whose weights are dequantized to F32.
        checkpoint: the wrapper.
        questions: the questions with their indices in the split.
        refusal_text: the trained refusal, for files that do not have it.
        limits: limits of the answers.
        device: a torch device, or ``auto``.
        progress: called with the number of finished questions and of all questions; each question counts twice.

    Returns:
        A sample for each question, in their order, and the vectors.

    Raises:
        ModelLoadError: transformers cannot load the base.
        ModelMismatchError: base and wrapper do not fit each other.
    """
    config = MetaSpiderConfig(model_name=str(base), dtype="float32", device=device)
    pipeline = MetaSpiderPipeline.from_pretrained(config)
    doubter = pipeline.attach(Doubter.from_checkpoint(checkpoint, refusal_text=refusal_text))
    total = 2 * len(questions)
    activations: list[torch.Tensor] = []
    for _, question in questions:
        progress(len(activations), total)
        prompt = pipeline.tokenize(pipeline.apply_chat_template(question.question))
        activations.append(pipeline.activations(prompt))
    stacked = torch.stack(activations)
    with torch.inference_mode():
        tokens = doubter(stacked.to(next(doubter.parameters()).device)).cpu()
    engine = TorchEngine(pipeline, limits=limits, batch_size=_BATCH)
    samples: dict[int, LadderSample] = {}
    for answered in engine.ask([question for _, question in questions], gains=(DEFAULT_GAIN,)):
        samples[answered.index] = _sample(*questions[answered.index], answered, whole=limits.whole_answer)
        progress(len(questions) + len(samples), total)
    return tuple(samples[row] for row in range(len(questions))), Vectors(stacked.numpy(), tokens.numpy())


def _sample(index: int, question: Question, answered: Answered, *, whole: bool) -> LadderSample:
    (reply,) = answered.replies
    answer = None if declines(reply.doubt, DEFAULT_THRESHOLD) else reply.text
    return LadderSample(
        index=index,
        question=question.question,
        category=question.category,
        base_answer=answered.base.text,
        base_correct=is_correct(question, answered.base.text, whole=whole),
        doubt=reply.doubt,
        answer=answer,
        answer_correct=answer is not None and is_correct(question, answer, whole=whole),
    )
