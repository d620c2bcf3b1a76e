"""llama-meta-generate in tests: a tiny base with its sidecar, and a clean environment around the process."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from metadeploy import MetaLlama
from metadeploy.sidecar import write_sidecar
from support.gguf_tools import write_tiny_gguf
from support.random_wrapper import random_wrapper

REFUSAL = "I'm not confident enough to answer this question accurately."


@dataclass(frozen=True)
class TinyCase:
    """Files of a base that answers in milliseconds, one token for each byte, 256 tokens of context.

    Attributes:
        base: GGUF of 3 blocks and width 32.
        sidecar: a random wrapper for it.
        for_another_base: a random wrapper of width 48 that injects at layer 7.
    """

    base: Path
    sidecar: Path
    for_another_base: Path

    def load(self, **options: Any) -> MetaLlama:
        """Load the base with its sidecar, without flash attention, which sums few tokens in another order than many."""
        return MetaLlama(self.base, self.sidecar, **{"n_threads": 1, "flash_attn": False} | options)


def write_tiny_case(folder: Path) -> TinyCase:
    """Write the three files."""
    case = TinyCase(folder / "base.gguf", folder / "sidecar.gguf", folder / "another.gguf")
    write_tiny_gguf(case.base, seed=3)  # this seed gives long and varied answers
    for path, width, cross_attn_layers in ((case.sidecar, 32, (1, 2)), (case.for_another_base, 48, (7,))):
        config, tensors = random_wrapper(
            "selective", hidden_dim=width, target_layers=(0, 1, 2), cross_attn_layers=cross_attn_layers
        )
        write_sidecar(path, config, {name: tensor.numpy() for name, tensor in tensors.items()})
    return case


@dataclass(frozen=True)
class Run:
    """The result of a process. Bytes that are not UTF-8 become lone surrogates."""

    returncode: int
    stdout: str
    stderr: str


@dataclass(frozen=True)
class Program:
    """Calls of the program with one model and one thread: on a busy machine, threads would wait for one another."""

    path: Path
    model: Path
    meta: Path

    def __call__(self, *flags: str | Path, stdin: str | bytes = "", env: Mapping[str, str] | None = None) -> Run:
        return self.bare("-m", self.model, "--meta", self.meta, "-t", "1", *flags, stdin=stdin, env=env)

    def without_meta(self, *flags: str | Path, env: Mapping[str, str] | None = None) -> Run:
        """Return the same program without ``--meta``."""
        return self.bare("-m", self.model, "-t", "1", *flags, env=env)

    def bare(self, *flags: str | Path, stdin: str | bytes = "", env: Mapping[str, str] | None = None) -> Run:
        """Run the program with only these flags."""
        result = subprocess.run(
            [str(self.path), *map(str, flags)],
            input=stdin.encode() if isinstance(stdin, str) else stdin,
            capture_output=True,
            env=_environment(env),
            timeout=120,
            check=False,
        )
        return Run(result.returncode, *(out.decode(errors="surrogateescape") for out in (result.stdout, result.stderr)))

    @contextmanager
    def start(self, *flags: str | Path, stdin: int = subprocess.DEVNULL) -> Iterator[subprocess.Popen[bytes]]:
        """Start a process, which is killed at the end of the block if it still runs."""
        command = [str(self.path), "-m", str(self.model), "--meta", str(self.meta), "-t", "1", *map(str, flags)]
        with subprocess.Popen(
            command, stdin=stdin, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=_environment(None)
        ) as process:
            try:
                yield process
            finally:
                process.kill()


def _environment(extra: Mapping[str, str] | None) -> dict[str, str]:
    ours = {name: value for name, value in os.environ.items() if not name.startswith(("META_", "LLAMA_"))}
    return ours | dict(extra or {})
