"""What a wrapper can cost at best, from the shapes alone (docs/performance-method.md derives it)."""

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
    """Multiply-adds and bytes of weights for a token; attention over earlier tokens, norms and encoder do not count.

    Attributes:
        blocks: multiply-adds of each block.
        head: of the output matrix.
        weight_bytes: all weights that a token goes through.
        entry: lowest block that is injected into.
        injection: multiply-adds of all injections.
        table_bytes: what they read, for each sequence.
    """

    blocks: tuple[float, ...]
    head: float
    weight_bytes: float
    entry: int
    injection: float
    table_bytes: float

    def prompt(self, n_tokens: int, inject_from: InjectFrom, *, n_reused: int = 0) -> float:
        """Work of two passes over a prompt by that of one: pass 2 begins above the entry block.

        Args:
            n_tokens: of the prompt.
            inject_from: where the injection begins.
            n_reused: tokens that pass 1 need not go through.
        """
        one = sum(self.blocks) * n_tokens + self.head
        first = sum(self.blocks) * (n_tokens - n_reused) + self.head
        n_second = n_tokens if inject_from == "prompt" else 1
        second = (sum(self.blocks[self.entry + 1 :]) + self.injection) * n_second + self.head
        return (first + second) / one

    def decode(self, n_sequences: int) -> tuple[float, float]:
        """Speed of decoding by that of the clean base: where memory bounds it, and where arithmetic does."""
        work = sum(self.blocks) + self.head
        tables = n_sequences * self.table_bytes
        return self.weight_bytes / (self.weight_bytes + tables), work / (work + self.injection)


def limits(base: Path, config: WrapperConfig) -> Limits | None:
    """Read the shapes of a base.

    Args:
        base: its GGUF.
        config: the wrapper beside it.

    Returns:
        The limits; None where the file does not hold all blocks (it is split).

    Raises:
        ModelLoadError: not a GGUF.
    """
    file = read_gguf(base, role="base model")
    share = _expert_share(file)
    work: dict[int, float] = {}
    n_bytes = head = 0.0
    for name, info in file.tensors.items():
        block = _BLOCK.match(name)
        used = share if "_exps" in name else 1.0
        is_head = name == "output.weight" or (name == "token_embd.weight" and "output.weight" not in file.tensors)
        if block:
            work[int(block[1])] = work.get(int(block[1]), 0.0) + (used * info.size if len(info.shape) > 1 else 0.0)
        elif is_head:
            head = float(info.size)
        if block or is_head:
            n_bytes += used * (info.nbytes or 0)
    if not head or not work or sorted(work) != list(range(max(work) + 1)) or max(config.cross_attn_layers) not in work:
        return None
    values = 2 * config.hidden_dim * config.ca_num_heads * config.num_cognitive_tokens * len(config.cross_attn_layers)
    return Limits(
        blocks=tuple(work[il] for il in sorted(work)),
        head=head,
        weight_bytes=n_bytes,
        entry=min(config.cross_attn_layers),
        injection=float(values),
        table_bytes=float(_F32_BYTES * values),
    )


def _expert_share(file: GGUFFile) -> float:
    """Of a mixture's experts, the share that a token goes through."""
    values = {key.rpartition(".")[2]: value.value for key, value in file.metadata.items()}
    used, count = values.get("expert_used_count"), values.get("expert_count")
    return used / count if isinstance(used, int) and isinstance(count, int) and count else 1.0
