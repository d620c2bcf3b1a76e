"""The questions on one rung, in the compiled runtime.

Not `RuntimeEngine`, which lets the Doubter answer, and refuse, every question: it serves all thresholds. Here only the
shipped one counts and time matters, so the Doubter speaks only where it answers, and each step is timed.
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

__all__ = ["BaseInRuntime"]

_CACHES: Final[dict[CacheType, dict[str, Any]]] = {
    "f32": {"type_k": "f32", "type_v": "f32", "flash_attn": False},
    "f16": {"type_k": "f16", "type_v": "f16", "flash_attn": "auto"},
}


@dataclass(frozen=True)
class _Said:
    """An answer, and how fast it came; without text where the Doubter declines, without doubt from the base alone."""

    text: str
    doubt: float | None
    rates: Rates | None

    @property
    def declined(self) -> bool:
        return self.doubt is not None and declines(self.doubt, DEFAULT_THRESHOLD)


class BaseInRuntime:
    """A base of one type, asked with one sidecar after the other.

    What the base computes and says by itself does not depend on the sidecar, so it is asked for once.
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
            questions: with their places in the split.
            limits: of the answers.
            cache_type: of keys and values.
            threads: of the runtime.

        Raises:
            ModelLoadError: llama.cpp cannot load it.
        """
        # an answer must not depend on the question before it, not even in its last digits
        self._llm = MetaLlama(base, n_threads=threads, prefix_cache_mib=0, **_CACHES[cache_type])
        self._name = base.name
        self._questions = questions
        self._limits = limits
        self._activations: dict[int, NDArray[np.float32]] = {}
        self._alone: dict[int, _Said] = {}

    def close(self) -> None:
        """Free the model."""
        self._llm.close()

    def alone(self, samples: Sequence[LadderSample]) -> None:
        """Take what the base says by itself from another rung of the same base."""
        self._alone = {sample.index: _Said(sample.base_answer, None, sample.base_rates) for sample in samples}

    def ask(self, sidecar: Path, theirs: Vectors, *, progress: Callable[[int], None]) -> tuple[LadderSample, ...]:
        """Ask every question with a sidecar.

        Args:
            sidecar: its file.
            theirs: what PyTorch computes, for the same questions.
            progress: told how many questions are done.

        Returns:
            A sample for each question, in their order.

        Raises:
            ModelMismatchError: base and sidecar do not fit each other.
            Error: the base's numbers are not finite, or nothing tells the refusal's tokens.
        """
        self._llm.attach(sidecar)
        # the runtime's own encoder, beside the model: of activations that are known it needs no pass
        encoder = _core.HostWrapper(str(sidecar))
        samples = []
        for place, (index, question) in enumerate(self._questions):
            progress(place)
            prompt = self._llm.tokenize_chat([{"role": "user", "content": question.question}])
            whole = uses_full_answer(question, whole=self._limits.whole_answer)
            if index not in self._alone:
                self._alone[index] = self._say(prompt, inject=False, whole=whole)
            alone, activations = self._alone[index], self._activations_of(index, prompt)
            said = self._say(prompt, inject=True, whole=whole)
            assert said.doubt is not None  # injected
            is_right = functools.partial(is_correct, question, whole=whole)
            samples.append(
                LadderSample(
                    index=index,
                    question=question.question,
                    category=question.category,
                    base_answer=alone.text,
                    base_correct=is_right(alone.text),
                    doubt=said.doubt,
                    answer=None if said.declined else said.text,
                    answer_correct=not said.declined and is_right(said.text),
                    activations=Cosine.of(activations, theirs.activations[place]),
                    cognitive_tokens=Cosine.of(encoder.encode(activations), theirs.cognitive_tokens[place]),
                    base_rates=alone.rates,
                    rates=said.rates,
                )
            )
        progress(len(self._questions))
        return tuple(samples)

    def _activations_of(self, index: int, prompt: Sequence[int]) -> NDArray[np.float32]:
        """F32 [n_target, D] of the question at a place of the split, computed once."""
        if index not in self._activations:
            found = self._llm.activations(prompt)
            if not np.isfinite(found).all():
                raise Error(f"base '{self._name}': its activations are not finite, expected numbers (damaged weights?)")
            self._activations[index] = found
        return self._activations[index]

    def _say(self, prompt: Sequence[int], *, inject: bool, whole: bool) -> _Said:
        answer = AnswerAccumulator(whole=whole)
        times: list[float] = []  # when each token came, or the first one that ends the answer
        began = time.perf_counter()
        stream = self._llm.stream(prompt, max_tokens=self._limits.max_new_tokens, inject=inject)
        with closing(stream):  # the model is busy until it is closed
            for chunk in stream:
                if chunk.token_ids or not times:
                    times.append(time.perf_counter())
                if chunk.doubt is not None and declines(chunk.doubt, DEFAULT_THRESHOLD):
                    return _Said("", chunk.doubt, _rates(len(prompt), began, times))
                if answer.add(chunk):
                    break
        return _Said(answer.kept.text, answer.doubt if inject else None, _rates(len(prompt), began, times))


def _rates(n_prompt: int, began: float, times: Sequence[float]) -> Rates:
    """Of an answer whose tokens came at those times, in seconds."""
    decode = (len(times) - 1) / (times[-1] - times[0]) if len(times) > 1 else None
    return Rates(n_prompt / (times[0] - began), decode)
