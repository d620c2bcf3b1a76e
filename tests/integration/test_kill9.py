"""SIGKILL at random moments: every file is the old or the new one, and a resumed run gives the same result.

Each command is killed twice here, and METADEPLOY_KILLS times in the nox session `kill9`. For power loss, files must be
flushed before they are renamed: tests/unit/test_files.py tests this.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from support.kill9 import Forked, Victim, forked, kill_again_and_again
from support.program import Program
from support.tiny_run import write_tiny_run

pytestmark = pytest.mark.skipif(os.name != "posix", reason="SIGKILL and fork are POSIX features")

KILLS = int(os.environ.get("METADEPLOY_KILLS", "2"))
TRAIN = (
    *("--target-layers", "all", "--cross-attn-layers", "1-2", "--bottleneck-dim", "16", "--device", "cpu"),
    *("--epochs", "2", "--pretrain-epochs", "1", "--batch-size", "16"),
)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_run(tmp_path_factory.mktemp("made") / "run").path


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Forked]:
    with forked(tmp_path_factory.mktemp("forked")) as process:
        yield process


def exported(made: Path, folder: Path) -> Victim:
    arguments = ("export", str(folder), "--outtype", "f16", "--force", "--base", str(made / "base.gguf"))
    return Victim(arguments, folder, strict=("doubter_sidecar.gguf", "doubter_checkpoint.pt", "run.json"))


def edited(_: Path, folder: Path) -> Victim:
    changes = ("--set", "name=another", "--set", "refusal_bias=0.5", "--unset", "license")
    return Victim(("edit", str(folder / "doubter_sidecar.gguf"), *changes), folder, strict=("doubter_sidecar.gguf",))


def collected(made: Path, folder: Path) -> Victim:
    shutil.rmtree(folder / "collect")
    for name in ("run.json", "doubter_checkpoint.pt", "doubter_sidecar.gguf"):
        (folder / name).unlink()
    settings = ("--layers", "all", "--dtype", "float32", "--device", "cpu", "--max-new-tokens", "12")
    questions = ("--base", str(made / "base.gguf"), "--questions", str(made / "questions"))
    return Victim(
        ("collect", str(folder), *questions, *settings),
        folder,
        patches={"metadeploy.training.collect:CHUNK": 8},
        strict=tuple(f"collect/{split}.{kind}" for split in ("train", "val", "test") for kind in ("jsonl",)),
    )


def trained(_: Path, folder: Path) -> Victim:
    return Victim(("train", str(folder), *TRAIN), folder, strict=("doubter_checkpoint.pt", "train/curves.png"))


def evaluated(_: Path, folder: Path) -> Victim:
    more = ("--gains", "0,1", "--sweep-limit", "12", "--bootstrap", "20", "--target-coverage", "0.5")
    name = "float32_test"
    return Victim(
        ("eval", str(folder), "--device", "cpu", *more),
        folder,
        patches={"metadeploy.evaluation.sampling:CHUNK": 8},
        strict=(f"eval/results_torch_{name}.json", f"eval/samples_torch_{name}.jsonl"),
    )


def climbed(made: Path, folder: Path) -> Victim:
    types = ("--types", "F32,Q8_0", "--sidecar-types", "q8_0", "--limit", "6", "--device", "cpu", "-t", "1")
    files = ("results.json", "table.md", "ladder.png", "rung_pytorch.json", "rung_F32_f32.json", "rung_Q8_0_f32.json")
    return Victim(
        ("ladder", str(folder), "--base", str(made / "base.gguf"), *types),
        folder,
        strict=tuple(f"ladder/{name}" for name in files),
    )


VICTIMS: tuple[Callable[[Path, Path], Victim], ...] = (exported, edited, collected, trained, evaluated, climbed)


@pytest.mark.parametrize("victim", VICTIMS, ids=lambda victim: victim.__name__)
def test_commands(victim: Callable[[Path, Path], Victim], made: Path, run: Forked, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(made, tmp_path / "run"))
    tally = kill_again_and_again(run, victim(made, folder), KILLS, random.Random(victim.__name__))
    assert tally.kills >= KILLS
    print(f"{victim.__name__}: {tally.kills} kills, {tally.changed} amid changes, {tally.leftovers} with leftovers")


def test_a_kill_after_the_end(run: Forked, tmp_path: Path) -> None:
    """A command that ends before it is to be killed keeps its own exit code, and the next one can run."""
    for _ in range(2):
        assert run(("--version",), tmp_path, die_after=3.0).code == 0


def without_times(text: str) -> list[dict[str, Any]]:
    return [{key: value for key, value in json.loads(line).items() if key != "timings"} for line in text.splitlines()]


def test_results_of_prompts(tiny: Program, tmp_path: Path) -> None:
    """Nothing is cached between prompts, so that every run computes the same for a prompt."""
    prompts, output = tmp_path / "prompts.txt", tmp_path / "results.jsonl"
    prompts.write_text("".join(f"question {n}?\n" for n in range(100)), encoding="utf-8")
    flags = ("--prompts", prompts, "-o", output, "-n", "8", "--prefix-cache", "0")
    assert tiny(*flags).returncode == 0
    whole = output.read_text(encoding="utf-8")
    expected, lot, kills = without_times(whole), random.Random("prompts"), 0
    while kills < KILLS:
        output.unlink()
        for _ in range(lot.randint(1, 3)):
            length = lot.randrange(len(whole))
            with tiny.start(*flags) as process:
                while process.poll() is None and (not output.exists() or output.stat().st_size < length):
                    time.sleep(0.0005)
                process.kill()
            kills += process.returncode == -signal.SIGKILL
            complete = output.read_text(encoding="utf-8").rpartition("\n")[0] if output.exists() else ""
            assert without_times(complete) == expected[: len(complete.splitlines())]
        assert tiny(*flags).returncode == 0
        assert without_times(output.read_text(encoding="utf-8")) == expected
        assert sorted(path.name for path in tmp_path.iterdir()) == ["prompts.txt", "results.jsonl"]
    print(f"results of prompts: {kills} kills")
