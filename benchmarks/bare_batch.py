"""llama.cpp's own batched decoding, through the low-level interface of llama-cpp-python."""

from __future__ import annotations

import os
from collections.abc import Sequence
from types import TracebackType

import llama_cpp
import numpy as np

from metadeploy import Error
from metadeploy.bench.timing import Floats, timed

__all__ = ["BareBatch"]


class BareBatch:
    """A base in a context of several sequences, in llama-cpp-python's own build without our patches."""

    def __init__(self, base: str | os.PathLike[str], *, n_ctx: int, n_parallel: int, threads: int) -> None:
        """Load the base.

        Args:
            base: GGUF.
            n_ctx: maximum tokens of each sequence.
            n_parallel: number of sequences.
            threads: for prompts and for single tokens.

        Raises:
            Error: llama.cpp cannot load it.
        """
        options = llama_cpp.llama_context_default_params()
        options.n_ctx = n_ctx * n_parallel
        options.n_seq_max = n_parallel
        options.n_threads = options.n_threads_batch = threads
        self._model = llama_cpp.llama_model_load_from_file(
            os.fspath(base).encode(), llama_cpp.llama_model_default_params()
        )
        self._context = self._model and llama_cpp.llama_init_from_model(self._model, options)
        if not self._context:
            raise Error(f"{base}: llama-cpp-python cannot load it into {n_parallel} sequences of {n_ctx} tokens")
        vocab = llama_cpp.llama_model_get_vocab(self._model)
        self._n_vocab = llama_cpp.llama_vocab_n_tokens(vocab)
        self._batch = llama_cpp.llama_batch_init(max(n_ctx, n_parallel), 0, 1)
        self._past = [0] * n_parallel
        self._random = np.random.default_rng(0)

    def __enter__(self) -> BareBatch:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        llama_cpp.llama_batch_free(self._batch)
        llama_cpp.llama_free(self._context)
        llama_cpp.llama_model_free(self._model)

    def prefill(self, sequence: int, n_tokens: int) -> None:
        """Evaluate random tokens in an empty sequence."""
        llama_cpp.llama_memory_seq_rm(llama_cpp.llama_get_memory(self._context), sequence, -1, -1)
        self._past[sequence] = 0
        self._decode([sequence] * n_tokens)

    def decode(self, n_sequences: int, n_steps: int) -> Floats:
        """Append random tokens to the first sequences, one token each per step; nothing is sampled.

        Returns:
            Milliseconds of each step, float64 [n_steps].
        """
        sequences = range(n_sequences)
        return np.array([timed(lambda: self._decode(sequences)) for _ in range(n_steps)])

    def _decode(self, sequences: Sequence[int]) -> None:
        """Evaluate a batch with a token for each entry; compute the logits of each sequence's last token."""
        batch = self._batch
        batch.n_tokens = len(sequences)
        for i, sequence in enumerate(sequences):
            batch.token[i] = int(self._random.integers(self._n_vocab))
            batch.pos[i] = self._past[sequence]
            batch.n_seq_id[i] = 1
            batch.seq_id[i][0] = sequence
            batch.logits[i] = sequence not in sequences[i + 1 :]
            self._past[sequence] += 1
        status = llama_cpp.llama_decode(self._context, batch)
        if status != 0:
            raise Error(f"llama_decode: status {status} for {len(sequences)} tokens")
        llama_cpp.llama_synchronize(self._context)
