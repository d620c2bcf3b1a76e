"""The lowest possible cost of a wrapper, from the shapes alone (docs/performance-method.md derives it)."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from metadeploy.sidecar.gguf_file import GGUFFile, read_gguf
from metadeploy.sidecar.spec import InjectFrom, WrapperConfig

__all__ = ["Limits", "limits"]

_BLOCK: Final = re.compile(r"blk\.(\d+)\.")
_F32_BYTES: Final = 4


@dataclass(frozen=True)
class Limits:
    """Multiply-adds and bytes of weights for a token, without attention over earlier tokens, norms and encoder.

    Attributes:
        blocks: multiply-adds of each block.
        head: multiply-adds of the output matrix.
        weight_bytes: bytes of all weights that a token uses.
        entry: lowest block after which the injection happens.
        injection: multiply-adds of all injections.
        table_bytes: bytes that the injections read, for each sequence.
    """

    blocks: tuple[float, ...]
    head: float
    weight_bytes: float
    entry: int
    injection: float
    table_bytes: float

    def prompt(self, n_tokens: int, inject_from: InjectFrom, *, n_reused: int = 0) -> float:
        """Return the work of two passes over a prompt divided by the work of one pass.

        Pass 2 starts above the entry block.

        Args:
            n_tokens: tokens of the prompt.
            inject_from: where the injection begins.
            n_reused: tokens that pass 1 skips because they are cached.
        """
        single = sum(self.blocks) * n_tokens + self.head
        pass1 = sum(self.blocks) * (n_tokens - n_reused) + self.head
        n_injected = n_tokens if inject_from == "prompt" else 1
        pass2 = (sum(self.blocks[self.entry + 1 :]) + self.injection) * n_injected + self.head
        return (pass1 + pass2) / single

    def decode(self, n_sequences: int) -> tuple[float, float]:
        """Return the speed of decoding divided by the clean base's, if memory limits it and if arithmetic does."""
        work = sum(self.blocks) + self.head
        tables = n_sequences * self.table_bytes
        return self.weight_bytes / (self.weight_bytes + tables), work / (work + self.injection)


def limits(base: Path, config: WrapperConfig) -> Limits | None:
    """Read the shapes of a base.

    Args:
        base: GGUF of the base.
        config: configuration of the wrapper.

    Returns:
        The limits; None if the file does not have all blocks (because it is split).

    Raises:
        ModelLoadError: not a GGUF.
    """
    file = read_gguf(base, role="base model")
    used_experts = _used_expert_share(file)
    work: dict[int, float] = {}
    n_bytes = head = 0.0
    for name, info in file.tensors.items():
        block = _BLOCK.match(name)
        used = used_experts if "_exps" in name else 1.0
        is_head = name == "output.weight" or (name == "token_embd.weight" and "output.weight" not in file.tensors)
        if block:
            work[int(block[1])] = work.get(int(block[1]), 0.0) + (used * info.size if len(info.shape) > 1 else 0.0)
        elif is_head:
            head = float(info.size)
        if block or is_head:
            n_bytes += used * (info.nbytes or 0)
    if not head or not work or sorted(work) != list(range(max(work) + 1)) or max(config.cross_attn_layers) not in work:
        return None
    n_values = 2 * config.hidden_dim * config.ca_num_heads * config.num_cognitive_tokens * len(config.cross_attn_layers)
    return Limits(
        blocks=tuple(work[il] for il in sorted(work)),
        head=head,
        weight_bytes=n_bytes,
        entry=min(config.cross_attn_layers),
        injection=float(n_values),
        table_bytes=float(_F32_BYTES * n_values),
    )


def _used_expert_share(file: GGUFFile) -> float:
    """Return the proportion of a mixture's experts that a token uses."""
    values = {key.rpartition(".")[2]: value.value for key, value in file.metadata.items()}
    used, count = values.get("expert_used_count"), values.get("expert_count")
    return used / count if isinstance(used, int) and isinstance(count, int) and count else 1.0
