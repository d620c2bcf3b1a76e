"""Asks the questions of one rung in the compiled runtime.

`RuntimeEngine` is not used here, because it generates every answer and every refusal, for all thresholds. Here only the
default threshold counts. So declined questions need no text, and each step is timed.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from metadeploy import _core
from metadeploy.data.checker import is_correct, uses_full_answer
from metadeploy.data.question import Question
from metadeploy.errors import Error
from metadeploy.evaluation.engines import AnswerLimits
from metadeploy.evaluation.engines.accumulator import AnswerAccumulator
from metadeploy.evaluation.ladder.samples import Cosine, LadderSample, Rates
from metadeploy.evaluation.ladder.settings import CacheType
from metadeploy.evaluation.ladder.vectors import Vectors
from metadeploy.evaluation.samples import declines
from metadeploy.runtime import MetaLlama
from metadeploy.sidecar.spec import DEFAULT_THRESHOLD

__all__ = ["RungRunner"]

_CACHES: Final[dict[CacheType, dict[str, Any]]] = {
    "f32": {"type_k": "f32", "type_v": "f32", "flash_attn": False},
    "f16": {"type_k": "f16", "type_v": "f16", "flash_attn": "auto"},
}


@dataclass(frozen=True)
class _Answer:
    """An answer and its speed. The text is empty if the Doubter declines; the doubt of the base alone is None."""

    text: str
    doubt: float | None
    rates: Rates | None

    @property
    def declined(self) -> bool:
        return self.doubt is not None and declines(self.doubt, DEFAULT_THRESHOLD)


class RungRunner:
    """Asks a base of one type with one sidecar after another.

    The activations and answers of the base alone do not depend on the sidecar, so they are computed once.
    """

    def __init__(
        self,
        base: Path,
        questions: Sequence[tuple[int, Question]],
        *,
        limits: AnswerLimits,
        cache_type: CacheType,
        threads: int | None,
    ) -> None:
        """Load the base.

        Args:
            base: a GGUF.
            questions: the questions with their indices in the split.
            limits: limits of the answers.
            cache_type: type of keys and values.
            threads: threads of the runtime.

        Raises:
            ModelLoadError: llama.cpp cannot load it.
        """
        # no prefix cache, so that answers do not depend on earlier questions, even in the last digits
        self._llm = MetaLlama(base, n_threads=threads, prefix_cache_mib=0, **_CACHES[cache_type])
        self._name = base.name
        self._questions = questions
        self._limits = limits
        self._activations: dict[int, NDArray[np.float32]] = {}
        self._base_answers: dict[int, _Answer] = {}

    def close(self) -> None:
        """Free the model."""
        self._llm.close()

    def reuse_base_answers(self, samples: Sequence[LadderSample]) -> None:
        """Take the answers of the base alone from another rung of the same base."""
        self._base_answers = {sample.index: _Answer(sample.base_answer, None, sample.base_rates) for sample in samples}

    def ask(self, sidecar: Path, reference: Vectors, *, progress: Callable[[int], None]) -> tuple[LadderSample, ...]:
        """Ask every question with a sidecar.

        Args:
            sidecar: the sidecar.
            reference: PyTorch's vectors for the same questions.
            progress: called with the number of finished questions.

        Returns:
            A sample for each question, in their order.

        Raises:
            ModelMismatchError: base and sidecar do not fit each other.
            Error: the base's activations are not finite, or the sidecar does not have the refusal's tokens.
        """
        self._llm.attach(sidecar)
        # the runtime's own encoder without a model, because the activations are known
        encoder = _core.HostWrapper(str(sidecar))
        samples = []
        for row, (index, question) in enumerate(self._questions):
            progress(row)
            prompt = self._llm.tokenize_chat([{"role": "user", "content": question.question}])
            whole = uses_full_answer(question, whole=self._limits.whole_answer)
            if index not in self._base_answers:
                self._base_answers[index] = self._generate(prompt, inject=False, whole=whole)
            base, activations = self._base_answers[index], self._cached_activations(index, prompt)
            doubter = self._generate(prompt, inject=True, whole=whole)
            assert doubter.doubt is not None  # because inject is True
            is_right = functools.partial(is_correct, question, whole=whole)
            samples.append(
                LadderSample(
                    index=index,
                    question=question.question,
                    category=question.category,
                    base_answer=base.text,
                    base_correct=is_right(base.text),
                    doubt=doubter.doubt,
                    answer=None if doubter.declined else doubter.text,
                    answer_correct=not doubter.declined and is_right(doubter.text),
                    activations=Cosine.of(activations, reference.activations[row]),
                    cognitive_tokens=Cosine.of(encoder.encode(activations), reference.cognitive_tokens[row]),
                    base_rates=base.rates,
                    rates=doubter.rates,
                )
            )
        progress(len(self._questions))
        return tuple(samples)

    def _cached_activations(self, index: int, prompt: Sequence[int]) -> NDArray[np.float32]:
        """Return F32 [n_target, D] of the question with this index, computed once."""
        if index not in self._activations:
            activations = self._llm.activations(prompt)
            if not np.isfinite(activations).all():
                raise Error(f"base '{self._name}': its activations are not finite, expected numbers (damaged weights?)")
            self._activations[index] = activations
        return self._activations[index]

    def _generate(self, prompt: Sequence[int], *, inject: bool, whole: bool) -> _Answer:
        answer = AnswerAccumulator(whole=whole)
        times: list[float] = []  # when each token arrived; if there is none, when the answer ended
        start = time.perf_counter()
        stream = self._llm.stream(prompt, max_tokens=self._limits.max_new_tokens, inject=inject)
        with closing(stream):  # the model is busy until the stream is closed
            for chunk in stream:
                if chunk.token_ids or not times:
                    times.append(time.perf_counter())
                if chunk.doubt is not None and declines(chunk.doubt, DEFAULT_THRESHOLD):
                    return _Answer("", chunk.doubt, _rates(len(prompt), start, times))
                if answer.add(chunk):
                    break
        return _Answer(answer.result.text, answer.doubt if inject else None, _rates(len(prompt), start, times))


def _rates(n_prompt: int, start: float, times: Sequence[float]) -> Rates:
    """Compute the rates of an answer from the times of its tokens, in seconds."""
    decode = (len(times) - 1) / (times[-1] - times[0]) if len(times) > 1 else None
    return Rates(n_prompt / (times[0] - start), decode)
