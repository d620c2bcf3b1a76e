"""Runs a Python target under atheris: ``fuzz_python.py NAME [libFuzzer's options]``. `run.py` runs all targets."""

from __future__ import annotations

import random
import sys
import tempfile
import warnings
from pathlib import Path

import atheris

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

with atheris.instrument_imports(include=["metadeploy"]):
    from fuzz.python_targets import targets


def main() -> None:
    name = sys.argv.pop(1)
    warnings.simplefilter("error")
    with tempfile.TemporaryDirectory() as folder, atheris.instrument_imports(include=["metadeploy"]):
        (target,) = (candidate for candidate in targets(Path(folder), only=name))

        def mutate(data: bytes, max_size: int, seed: int) -> bytes:
            mutated = target.mutate(data or target.seeds[seed % len(target.seeds)], random.Random(seed))
            return mutated[:max_size]

        for argument in [word for word in sys.argv[1:] if not word.startswith("-")]:
            for number, seed in enumerate((*target.seeds, *target.refused)):
                Path(argument, f"seed-{number}").write_bytes(seed)
        sys.argv += ["-max_len=65536"]
        atheris.Setup(sys.argv, target.read, custom_mutator=mutate)
        atheris.Fuzz()


if __name__ == "__main__":
    main()
