"""The compiled runtime: two-pass inference with a GGUF base, on every device that llama.cpp supports."""

from __future__ import annotations

try:
    from metadeploy import _core as _core
except ImportError as error:  # a source tree that was never built, or an extension for another Python
    raise ImportError(
        f"the compiled core metadeploy._core cannot be loaded: {error}\n"
        "Did you forget to build it? In the source tree: pip install -e ."
    ) from error

from metadeploy.runtime.batch import BatchAnswer, Request
from metadeploy.runtime.llama import MetaLlama
from metadeploy.runtime.types import GenerationChunk, GenerationResult, Message, Timings, TokenLogprob

__all__ = [
    "BatchAnswer",
    "GenerationChunk",
    "GenerationResult",
    "Message",
    "MetaLlama",
    "Request",
    "Timings",
    "TokenLogprob",
]
