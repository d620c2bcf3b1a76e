"""The test stand: a base in a context, and calls of the core that compute and do nothing else."""

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

__all__ = ["Stand"]

#: The injection costs the same at any gain but 0; at this one the answers go on as the base's.
_FAINT: Final = 1e-3
#: As anybody has it who asks for no other one.
_REFRESH: Final = Refresh()
#: Continued for as long as anybody asks.
_ENDLESS: Final = "one two three four " * 8


class Stand:
    """A base in a context of its own, with nothing kept from one prompt to the next unless that is asked for.

    Clean is ``inject=False``: the graph that is built for it has none of our nodes, and at gain 0 it is the same one.
    """

    def __init__(
        self,
        base: str | os.PathLike[str],
        *,
        n_ctx: int,
        n_parallel: int = 1,
        threads: int | None = None,
        hidden_cache_mib: int | None = None,
        keeps_prompts: bool = False,
    ) -> None:
        """Load the base.

        Args:
            base: GGUF.
            n_ctx: tokens of each sequence.
            n_parallel: sequences.
            threads: None leaves it to llama.cpp.
            hidden_cache_mib: as in `MetaLlama`, whose default None stands for; 0 makes both passes full ones.
            keeps_prompts: what a prompt leaves is kept for the next one, as it is by default in `MetaLlama`.

        Raises:
            ModelLoadError: llama.cpp cannot load it.
        """
        logs.configure(False)
        options = _core.EngineOptions()
        options.model = os.fspath(base)
        options.n_ctx = n_ctx
        options.n_parallel = n_parallel
        options.n_threads = options.n_threads_batch = -1 if threads is None else threads
        if not keeps_prompts:
            options.prefix_cache_mib = 0
        if hidden_cache_mib is not None:
            options.hidden_cache_mib = hidden_cache_mib
        self.engine = _core.Engine(options)
        self._random = np.random.default_rng(0)

    def __enter__(self) -> Stand:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.engine.close()

    def attach(self, sidecar: str | os.PathLike[str], *, folded: bool = True) -> float:
        """Put a sidecar in place of the one that is there: seconds.

        Args:
            sidecar: the file.
            folded: False computes keys and values of the cognitive tokens at every token, as the framework does.
        """
        self.engine.detach()
        began = time.perf_counter()
        self.engine.attach(os.fspath(sidecar), folded)
        return time.perf_counter() - began

    def tokens(self, n: int) -> list[int]:
        """Random ones."""
        drawn: list[int] = self._random.integers(0, self.engine.n_vocab, size=n).tolist()
        return drawn

    def prefill(self, tokens: list[int], *, inject: bool, sequence: int = 0) -> _core.Timings:
        """A prompt through both passes, or through the clean one alone."""
        return _core.prefill(self.engine, sequence, tokens, inject)[0]

    def decode(self, n_sequences: int, n_steps: int, *, inject: bool) -> Floats:
        """Give each of the first sequences one more token, so many times; nothing is sampled.

        Returns:
            Milliseconds of each step, float64 [n_steps].
        """
        steps = (_core.decode(self.engine, self.tokens(n_sequences), inject) for _ in range(n_steps))
        return np.array([ms for ms, _ in steps])

    @property
    def has_text(self) -> bool:
        """Whether the base has a vocabulary to answer in."""
        try:
            return bool(self.engine.tokenize(_ENDLESS, True, False))
        except Error:
            return False

    def serve(self, n_sequences: int, n_tokens: int, *, refresh: bool = False) -> float:
        """Tokens a second of `MetaLlama.generate_batch` with injection, once all sequences have begun their answers.

        Args:
            n_sequences: answers at once.
            n_tokens: of each.
            refresh: whether their cognitive tokens are made anew on the way, which takes two sequences for each.

        Returns:
            The rate, sampling and Python included; NaN where an answer ended too early to tell.
        """
        params = _core.GenerationParams()
        params.max_tokens = n_tokens
        params.temperature = 0.0
        params.gain = _FAINT
        if refresh:
            params.refresh = (_REFRESH.threshold, _REFRESH.min_interval, _REFRESH.max_interval)
        prompt = self.engine.tokenize(_ENDLESS, True, False)
        answers = [BatchAnswer(index) for index in range(n_sequences)]
        counts = dict.fromkeys(range(n_sequences), 0)
        rounds: list[float] = []  # when each answer had its first token, its second one, ...
        with closing(batch.run(self.engine, ((answer, prompt, params) for answer in answers), None)) as steps:
            for answer, chunk in steps:
                if chunk is None or chunk.result is not None:
                    break  # from here on fewer are at it
                counts[answer.index] += len(chunk.token_ids)
                if min(counts.values()) > len(rounds):
                    rounds.append(time.perf_counter())
        if len(rounds) < 2:
            return float("nan")
        return n_sequences * (len(rounds) - 1) / (rounds[-1] - rounds[0])
