"""What the rungs are compared with: PyTorch in F32 on the weights of the very same base file."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open

from metadeploy._tensor_files import save_tensors
from metadeploy.data.checker import is_correct
from metadeploy.data.question import Question
from metadeploy.evaluation.engines import AS_SHIPPED, Answered, AnswerLimits
from metadeploy.evaluation.engines.torch_engine import TorchEngine
from metadeploy.evaluation.ladder.samples import LadderSample
from metadeploy.evaluation.samples import declines
from metadeploy.reference.config import MetaSpiderConfig
from metadeploy.reference.doubt import AS_CALIBRATED
from metadeploy.reference.doubter import Doubter
from metadeploy.reference.pipeline import MetaSpiderPipeline

__all__ = ["Vectors", "ask_pytorch"]

#: Questions at once: few enough for logits in F32, and for progress to be told now and then.
_BATCH: Final = 32


@dataclass(frozen=True)
class Vectors:
    """What PyTorch computes on the way, for n questions.

    Attributes:
        activations: F32 [n, n_target, D], outputs of the target layers at the last prompt token of the clean pass.
        cognitive_tokens: F32 [n, C, D], what the encoder makes of them.
    """

    activations: NDArray[np.float32]
    cognitive_tokens: NDArray[np.float32]

    def write(self, path: Path, fingerprint: str) -> None:
        """Write both, or nothing."""
        arrays = {"activations": self.activations, "cognitive_tokens": self.cognitive_tokens}
        tensors = {name: torch.from_numpy(array) for name, array in arrays.items()}
        save_tensors(path, tensors, {"fingerprint": fingerprint})

    @classmethod
    def read(cls, path: Path, fingerprint: str) -> Vectors | None:
        """Read them back; None where there is no such file, or it belongs to another ladder or cannot be read."""
        if not path.exists():
            return None
        try:
            with safe_open(path, framework="numpy") as file:
                if (file.metadata() or {}).get("fingerprint") != fingerprint:
                    return None
                return cls(file.get_tensor("activations"), file.get_tensor("cognitive_tokens"))
        except SafetensorError:
            return None


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
    """Ask the base alone and with its Doubter, and keep what is computed on the way.

    Args:
        base: a GGUF, whose weights are dequantised to F32.
        checkpoint: the wrapper.
        questions: with their places in the split.
        refusal_text: what the wrapper was trained to decline with, for files that do not say so.
        limits: of the answers.
        device: a torch device, or ``auto``.
        progress: told of so many questions how many are done; each counts twice.

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
    for answered in engine.ask([question for _, question in questions], gains=(AS_SHIPPED,)):
        samples[answered.index] = _sample(*questions[answered.index], answered, whole=limits.whole_answer)
        progress(len(questions) + len(samples), total)
    return tuple(samples[place] for place in range(len(questions))), Vectors(stacked.numpy(), tokens.numpy())


def _sample(index: int, question: Question, answered: Answered, *, whole: bool) -> LadderSample:
    (reply,) = answered.replies
    answer = None if declines(reply.doubt, AS_CALIBRATED) else reply.text
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
