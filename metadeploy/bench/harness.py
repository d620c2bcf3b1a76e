"""The benchmark harness: a base in a context, and calls of the core that only compute."""

from __future__ import annotations

import os
import time
from contextlib import closing
from types import TracebackType
from typing import Final

import numpy as np

from metadeploy import _core
from metadeploy.bench.timing import Floats
from metadeploy.errors import Error
from metadeploy.runtime import batch, logs
from metadeploy.runtime.batch import BatchAnswer
from metadeploy.schedule import Refresh

__all__ = ["BenchHarness"]

#: The injection costs the same at every gain except 0. At this gain the base's answers do not change.
_EPSILON_GAIN: Final = 1e-3
#: The default settings of a refresh.
_REFRESH: Final = Refresh()
#: A prompt that a model continues without end.
_ENDLESS_PROMPT: Final = "one two three four " * 8


class BenchHarness:
    """A base in a context of its own. By default, nothing of a prompt is cached for the next one.

    Clean means ``inject=False``: its graph has none of our nodes. At gain 0 the graph is the same.
    """

    def __init__(
        self,
        base: str | os.PathLike[str],
        *,
        n_ctx: int,
        n_parallel: int = 1,
        threads: int | None = None,
        hidden_cache_mib: int | None = None,
        cache_prompts: bool = False,
    ) -> None:
        """Load the base.

        Args:
            base: GGUF.
            n_ctx: tokens of each sequence.
            n_parallel: number of sequences.
            threads: None for llama.cpp's default.
            hidden_cache_mib: as in `MetaLlama`; None for its default, 0 for two full passes.
            cache_prompts: whether a prompt can reuse the tokens that it shares with the last one, as in `MetaLlama`.

        Raises:
            ModelLoadError: llama.cpp cannot load it.
        """
        logs.configure(False)
        options = _core.EngineOptions()
        options.model = os.fspath(base)
        options.n_ctx = n_ctx
        options.n_parallel = n_parallel
        options.n_threads = options.n_threads_batch = -1 if threads is None else threads
        if not cache_prompts:
            options.prefix_cache_mib = 0
        if hidden_cache_mib is not None:
            options.hidden_cache_mib = hidden_cache_mib
        self.engine = _core.Engine(options)
        self._random = np.random.default_rng(0)

    def __enter__(self) -> BenchHarness:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.engine.close()

    def attach(self, sidecar: str | os.PathLike[str], *, folded: bool = True) -> float:
        """Attach a sidecar instead of the current one. Return the seconds that this takes.

        Args:
            sidecar: the file.
            folded: False computes keys and values of the cognitive tokens at every token, as the framework does.
        """
        self.engine.detach()
        start = time.perf_counter()
        self.engine.attach(os.fspath(sidecar), folded)
        return time.perf_counter() - start

    def tokens(self, n: int) -> list[int]:
        """Draw random tokens."""
        tokens: list[int] = self._random.integers(0, self.engine.n_vocab, size=n).tolist()
        return tokens

    def prefill(self, tokens: list[int], *, inject: bool, sequence: int = 0) -> _core.Timings:
        """Evaluate a prompt in both passes, or only in the clean pass."""
        return _core.prefill(self.engine, sequence, tokens, inject)[0]

    def decode(self, n_sequences: int, n_steps: int, *, inject: bool) -> Floats:
        """Evaluate ``n_steps`` more tokens in each of the first ``n_sequences`` sequences, without sampling.

        Returns:
            Milliseconds of each step, float64 [n_steps].
        """
        steps = (_core.decode(self.engine, self.tokens(n_sequences), inject) for _ in range(n_steps))
        return np.array([ms for ms, _ in steps])

    @property
    def has_text(self) -> bool:
        """Whether the base has a vocabulary."""
        try:
            return bool(self.engine.tokenize(_ENDLESS_PROMPT, True, False))
        except Error:
            return False

    def batch_rate(self, n_sequences: int, n_tokens: int, *, refresh: bool = False) -> float:
        """Measure `MetaLlama.generate_batch` with injection, from the moment when all sequences have a token.

        Args:
            n_sequences: answers at once.
            n_tokens: tokens of each answer.
            refresh: whether cognitive tokens are refreshed during an answer, which takes two sequences for each.

        Returns:
            Tokens per second, including sampling and Python; NaN if an answer ended too early.
        """
        params = _core.GenerationParams()
        params.max_tokens = n_tokens
        params.temperature = 0.0
        params.gain = _EPSILON_GAIN
        if refresh:
            params.refresh = (_REFRESH.threshold, _REFRESH.min_interval, _REFRESH.max_interval)
        prompt = self.engine.tokenize(_ENDLESS_PROMPT, True, False)
        answers = [BatchAnswer(index) for index in range(n_sequences)]
        counts = dict.fromkeys(range(n_sequences), 0)
        round_times: list[float] = []  # when every answer had its first token, its second token, ...
        with closing(batch.run(self.engine, ((answer, prompt, params) for answer in answers), None)) as steps:
            for answer, chunk in steps:
                if chunk is None or chunk.result is not None:
                    break  # fewer sequences remain
                counts[answer.index] += len(chunk.token_ids)
                if min(counts.values()) > len(round_times):
                    round_times.append(time.perf_counter())
        if len(round_times) < 2:
            return float("nan")
        return n_sequences * (len(round_times) - 1) / (round_times[-1] - round_times[0])
