"""One base loaded twice with different options that must not change the results."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np

from metadeploy import MetaLlama
from metadeploy.sidecar import write_sidecar
from metadeploy.sidecar.spec import InjectFrom
from support.parity import EXACT
from support.random_wrapper import random_wrapper
from support.tiny_archs import ARCHS, GEMMA4_FIRST_SHARED, NUM_LAYERS, WIDTH, WINDOW, write_tiny_arch
from support.tiny_models import TinyModel

#: kinds from both modules of tiny models
PAIR_KINDS: Final = ["llama", "qwen3", "qwen3_5", "gemma3", *ARCHS]
#: their memory is or holds a recurrent state, which changes with each token
STATEFUL: Final = ("qwen3_5", "mamba", "rwkv7")
#: some of their blocks look back over 16 tokens only
WINDOWED: Final = ("gemma2", "gemma3", "gemma4")


@dataclass(frozen=True)
class RuntimePair:
    """A base under test, and the same base with plain options.

    Attributes:
        kind: one of ``PAIR_KINDS``.
        path: its GGUF, in F32.
        num_layers: decoder blocks.
        hidden_dim: width.
        tested: the instance with the options under test.
        plain: the instance that it is compared with.
    """

    kind: str
    path: Path
    num_layers: int
    hidden_dim: int
    tested: MetaLlama
    plain: MetaLlama

    def attach(self, folder: Path, layers: Sequence[int], *, inject_from: InjectFrom = "prompt", seed: int = 0) -> None:
        """Attach the same random wrapper to both. It also reads layers above and below those that it injects into."""
        n = self.num_layers
        config, tensors = random_wrapper(
            "selective",
            hidden_dim=self.hidden_dim,
            target_layers=[n - 1, 0, n // 2],
            cross_attn_layers=sorted(set(layers)),
            inject_from=inject_from,
            seed=seed,
        )
        path = folder / "sidecar.gguf"
        write_sidecar(path, config, {name: tensor.numpy() for name, tensor in tensors.items()}, force=True)
        self.tested.attach(path)
        self.plain.attach(path)

    def prompt(self, length: int, *, seed: int = 0) -> list[int]:
        """Random tokens, none of them a control token."""
        rng = np.random.default_rng((seed, length))
        return rng.integers(20, min(250, self.tested.n_vocab), size=length).tolist()


def reusable(pair: RuntimePair, before: int, shared: int, marks: Sequence[int] = ()) -> int:
    """Return how many shared tokens can be reused after a prompt of this length, with states also at ``marks``."""
    if pair.kind in WINDOWED and before > WINDOW:
        return 0  # the window no longer holds the first tokens
    if pair.kind in STATEFUL and shared != before:
        shared = max((mark for mark in marks if mark <= shared), default=0)
    return shared if 32 * shared >= before else 0


def pass2_kind(pair: RuntimePair, length: int, *, inject_from: InjectFrom = "prompt") -> str:
    """Return the best possible kind of pass 2 over a prompt of this length with the attached wrapper."""
    layers = pair.tested.cross_attn_layers
    if not layers:
        return "none"
    if inject_from == "last_prompt_token" and pair.kind in STATEFUL:
        return "full"  # a tail of one token needs the state before that token
    lowest = min(layers)
    last = lowest == pair.num_layers - 1
    if pair.kind == "rwkv7" and not last:  # upper blocks read values of the first one, from a state that has changed
        return "full"
    # upper blocks read keys and values of lower blocks, whose window has moved on
    if pair.kind == "gemma4" and length > 256 and lowest >= GEMMA4_FIRST_SHARED - 2 and not last:
        return "full"
    return "tail"


@contextmanager
def runtime_pair(
    kind: str,
    folder: Path,
    tiny: Callable[[str], TinyModel],
    *,
    tested: Mapping[str, Any],
    plain: Mapping[str, Any],
    **common: Any,
) -> Iterator[RuntimePair]:
    """A tiny base loaded twice, with an F32 cache and without flash attention.

    Args:
        kind: one of ``PAIR_KINDS``.
        folder: folder for a base of ``tiny_archs``.
        tiny: the bases of ``tiny_models``, by kind.
        tested: options of the first only.
        plain: options of the second only.
        common: options of both.
    """
    if kind in ARCHS:
        path, num_layers, width = folder / f"{kind}.gguf", NUM_LAYERS, WIDTH
        write_tiny_arch(path, kind)
    else:
        model = tiny(kind)
        path, num_layers, width = model.path_gguf, model.num_layers, model.hidden_dim
    options = {"n_ctx": 512, **EXACT, **common}
    with MetaLlama(path, **options | tested) as one, MetaLlama(path, **options | plain) as other:
        yield RuntimePair(kind, path, num_layers, width, one, other)
