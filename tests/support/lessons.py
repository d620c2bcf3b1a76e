"""Examples of different lengths, and a fresh wrapper, for tests of training on tiny models."""

from __future__ import annotations

import random
from typing import Any

import torch
from torch import Tensor

from metadeploy.reference.base import FrozenBase
from metadeploy.reference.doubter import Doubter
from metadeploy.sidecar.spec import WrapperConfig
from metadeploy.training.examples import Example
from metadeploy.training.initialization import new_wrapper


def some_examples(count: int, *, vocab_size: int, shared: int = 5, seed: int = 0) -> list[Example]:
    """Draw examples whose prompts begin with the same ``shared`` tokens and differ in the next one."""
    draw = random.Random(seed)
    tokens = range(vocab_size)
    head = draw.choices(tokens, k=shared)
    second = draw.sample(tokens, k=count)
    examples = []
    for index in range(count):
        target = draw.choices(tokens, k=draw.randint(1, 6))
        examples.append(
            Example(
                prompt_ids=(*head, second[index], *draw.choices(tokens, k=draw.randint(0, 25))),
                target_ids=tuple(target),
                declines=index % 2 == 1,
                doubt=float(index % 2),
                n_own=len(target) - 1 if index % 2 == 0 else 0,
            )
        )
    return examples


def fresh_doubter(base: FrozenBase, *, seed: int = 0, **changes: Any) -> Doubter:
    """Return a wrapper like a new one in training, but with larger injections."""
    settings: dict[str, Any] = {
        "encoder_type": "selective",
        "hidden_dim": base.stack.hidden_dim,
        "encoder_dim": 16,
        "bottleneck_dim": 16,
        "num_cognitive_tokens": 3,
        "ca_num_heads": 2,
        "enc_num_heads": 2,
        "target_layers": (1, 3, 5),
        "cross_attn_layers": (3, 5),
        "base_block_count": base.num_layers,
    }
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        doubter = new_wrapper(WrapperConfig(**settings | changes), init_std=0.2)
        for name, parameter in doubter.named_parameters():
            if name.endswith("token_preference"):
                parameter.data.normal_()
            if name.endswith("up_proj.weight"):
                parameter.data.normal_(std=0.2)
    return doubter


def some_activations(count: int, doubter: Doubter, *, seed: int = 0) -> Tensor:
    """Return activations [count, N, D] of order 1, in float32."""
    config = doubter.config
    return torch.randn(
        count, len(config.target_layers), config.hidden_dim, generator=torch.Generator().manual_seed(seed)
    )
