"""The PyTorch reference: encoders, cross-attention and two-pass pipeline, written for clarity.

Tests compare the compiled runtime with it. It also runs a wrapper on any Hugging Face causal LM::

    from metadeploy.reference import Doubter, MetaSpiderConfig, MetaSpiderPipeline

    pipe = MetaSpiderPipeline.from_pretrained(MetaSpiderConfig(model_name="Qwen/Qwen3.5-4B", dtype="bfloat16"))
    pipe.attach(Doubter.from_checkpoint("doubter_checkpoint.pt"))
    print(pipe.generate("Who won the 1937 Tour of Flanders?"))
"""

from __future__ import annotations

import importlib.util

from metadeploy.errors import MissingDependencyError

if importlib.util.find_spec("torch") is None:
    raise MissingDependencyError(
        "metadeploy.reference: PyTorch is not installed, needed for the reference (pip install 'metadeploy[reference]')"
    )

from metadeploy.reference.config import MetaSpiderConfig
from metadeploy.reference.cross_attention import BottleneckCrossAttention
from metadeploy.reference.doubter import Doubter, PendingDoubter
from metadeploy.reference.encoders import MultiTokenEncoder, SelectiveEncoder, TransformerEncoder
from metadeploy.reference.pipeline import MetaSpiderPipeline

__all__ = [
    "BottleneckCrossAttention",
    "Doubter",
    "MetaSpiderConfig",
    "MetaSpiderPipeline",
    "MultiTokenEncoder",
    "PendingDoubter",
    "SelectiveEncoder",
    "TransformerEncoder",
]
