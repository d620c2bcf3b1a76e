"""Fuzz targets for all data that the Python side reads: seeds, a mutation that knows the format, and a reader.

A reader may return a result or raise an error of metadeploy. Any other exception is a finding.
`fuzz_python.py` runs the targets with atheris, `test_python_targets.py` briefly without it.
"""

from __future__ import annotations

import io
import json
import random
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from metadeploy.errors import Error

#: Values that have another type, are out of range, or have a special meaning elsewhere.
ODD: tuple[Any, ...] = (
    None, True, False, 0, 1, -1, 7, 2**31, 2**63, 2**64, 0.5, -0.0, 1e308, float("nan"), float("inf"), "", "x", "late",
    "auto", "1", "é\u2028", "\ud83d", "../x", "org/name", [], {}, [[]], [None], [0, 1], [-1], ["a"], {"a": 1},
    {"": None}, [[1]] * 3,
)  # fmt: skip


@dataclass(frozen=True)
class Target:
    """One reader.

    Attributes:
        name: a word.
        seeds: valid inputs.
        refused: inputs that the reader must refuse, once findings.
        mutate: makes a new input from another. The same state of the generator gives the same input.
        read: reads an input. Every exception that it raises is a finding.
    """

    name: str
    seeds: tuple[bytes, ...]
    mutate: Callable[[bytes, random.Random], bytes]
    read: Callable[[bytes], object]
    refused: tuple[bytes, ...] = ()


def targets(folder: Path, *, only: str | None = None) -> Iterator[Target]:
    """Every target.

    Args:
        folder: an empty folder, in which each target gets its own.
        only: the name of one target; None for all.
    """
    for make in (_sidecar, _base, _checkpoint, _run_json, _questions, _samples, _records, _rung, _results):
        name = make.__name__.removeprefix("_")
        if only not in (None, name):
            continue
        (folder / name).mkdir()
        yield make(folder / name)


# --- mutations -------------------------------------------------------------------------------------------------------


def mutate_bytes(data: bytes, rng: random.Random) -> bytes:
    """Change, remove, insert or double some bytes."""
    mutated = bytearray(data)
    for _ in range(rng.choice((1, 1, 1, 2, 4, 8))):
        at, length = rng.randrange(len(mutated) + 1), rng.choice((1, 1, 2, 4, 8, 32))
        kind = rng.randrange(5)
        if kind == 0 and at < len(mutated):
            mutated[at] ^= 1 << rng.randrange(8)
        elif kind == 1:
            del mutated[at : at + length]
        elif kind == 2:
            mutated[at:at] = rng.choice(
                (rng.randbytes(length), b"\0" * length, b"[" * 70, b"\xff\xfe", b"\xef\xbb\xbf")
            )
        elif kind == 3:
            mutated[at:at] = mutated[at : at + 4 * length]
        else:
            mutated[at : at + length] = rng.randbytes(length)
    return bytes(mutated)


def mutate_value(value: Any, rng: random.Random) -> Any:
    """Replace, remove, double or wrap one part of a JSON value."""
    if rng.random() < 0.15 or not isinstance(value, (dict, list)) or not value:
        kind = rng.randrange(5)
        if kind == 0:
            return [value]
        if kind == 1:
            return {"x": value}
        if kind == 2 and isinstance(value, str):
            return value + rng.choice(("x", " ", "\n", "\0", "é"))
        if kind == 3 and isinstance(value, (int, float)) and not isinstance(value, bool):
            return value + rng.choice((-1, 1, 0.5, 2**31))
        return rng.choice(ODD)
    if isinstance(value, list):
        at, changed = rng.randrange(len(value)), list(value)
        kind = rng.randrange(6)
        if kind == 0:
            del changed[at]
        elif kind == 1:
            changed.insert(at, changed[at])
        else:
            changed[at] = mutate_value(changed[at], rng)
        return changed
    key = rng.choice(list(value))
    kind = rng.randrange(7)
    if kind == 0:
        return {name: entry for name, entry in value.items() if name != key}
    if kind == 1:
        return value | {rng.choice(("x", "", "schema", key + "s")): value[key]}
    return value | {key: mutate_value(value[key], rng)}


def mutate_json(data: bytes, rng: random.Random) -> bytes:
    """Change one part of a JSON text. The text may already be invalid JSON."""
    try:
        value = json.loads(data)
    except (ValueError, RecursionError):
        return mutate_bytes(data, rng)
    text = json.dumps(mutate_value(value, rng), ensure_ascii=rng.random() < 0.5)
    changed = text.encode("utf-8", "surrogatepass")
    return mutate_bytes(changed, rng) if rng.random() < 0.15 else changed


def mutate_lines(data: bytes, rng: random.Random) -> bytes:
    """Mutate one of several JSON lines."""
    lines = data.split(b"\n")
    at = rng.randrange(len(lines))
    lines[at] = mutate_json(lines[at], rng)
    return b"\n".join(lines)


def mutate_gguf(data: bytes, rng: random.Random) -> bytes:
    """Change a field, name, count or value of a GGUF, or bytes if the data is no longer a GGUF."""
    from support.gguf_mutations import mutations

    try:
        variants = list(mutations(data, seed=rng.randrange(2**32), count=9))
        return rng.choice(variants).data
    except (IndexError, KeyError, ValueError, MemoryError, OverflowError):
        return mutate_bytes(data, rng)


# --- targets ---------------------------------------------------------------------------------------------------------


def _reader(path: Path, read: Callable[[Path], object]) -> Callable[[bytes], object]:
    def run(data: bytes) -> object:
        path.write_bytes(data)
        try:
            return read(path)
        except Error as error:
            assert str(error)
            return None

    return run


def _sidecar(folder: Path) -> Target:
    from metadeploy.sidecar import read_sidecar

    corpus = Path(__file__).resolve().parent / "corpus"
    seeds, refused = (
        tuple(path.read_bytes() for path in sorted((corpus / name).glob("*.gguf"))) for name in ("sidecar", "refused")
    )

    def read(path: Path) -> object:
        sidecar = read_sidecar(path)
        return [sidecar.tensors[name].sum() for name in sidecar.tensors]

    return Target("sidecar", seeds, mutate_gguf, _reader(folder / "x.gguf", read), refused)


def _base(folder: Path) -> Target:
    from metadeploy.sidecar.base_model import read_base
    from support.gguf_tools import write_tiny_gguf

    write_tiny_gguf(folder / "seed.gguf")
    data = (folder / "seed.gguf").read_bytes()
    return Target("base", (data[:20_000],), mutate_gguf, _reader(folder / "x.gguf", read_base))


def _checkpoint(folder: Path) -> Target:
    import torch

    from metadeploy.checkpoint.load import load_wrapper
    from support.random_wrapper import random_wrapper

    config, tensors = random_wrapper("selective", hidden_dim=8, target_layers=(1, 0), cross_attn_layers=(1,))
    encoder = {name.removeprefix("enc."): tensor for name, tensor in tensors.items() if name.startswith("enc.")}
    cross = {name.removeprefix("ca.1."): tensor for name, tensor in tensors.items() if name.startswith("ca.")}
    content = {
        "format_version": "1.1",
        "config": {
            "encoder_type": "selective", "encoder_bottleneck": config.encoder_dim,
            "ca_bottleneck_dim": config.bottleneck_dim, "ca_num_heads": config.ca_num_heads, "model_name": "org/name",
            "chat_template_kwargs": {"enable_thinking": False},
        },
        "target_layers": [1, 0],
        "cross_attn_layers": [1],
        "refusal_token_ids": [1, 2],
        "encoder_state": encoder,
        "ca_state": {"1": cross},
    }  # fmt: skip

    def saved(value: object) -> bytes:
        buffer = io.BytesIO()
        torch.save(value, buffer)
        return buffer.getvalue()

    def mutate(data: bytes, rng: random.Random) -> bytes:
        if rng.random() < 0.5:
            return mutate_bytes(data, rng)
        try:
            return saved(_mutate_nested(content, rng))
        except (TypeError, ValueError, OverflowError, RuntimeError):
            return mutate_bytes(data, rng)

    return Target("checkpoint", (saved(content),), mutate, _reader(folder / "x.pt", load_wrapper))


def _mutate_nested(value: Any, rng: random.Random) -> Any:
    """Like `mutate_value`, for a checkpoint's dict, which contains tensors."""
    import torch

    if isinstance(value, torch.Tensor):
        kind = rng.randrange(6)
        if kind == 0:
            return value.reshape(-1)[:1]
        if kind == 1:
            return value.to(rng.choice((torch.float16, torch.bfloat16, torch.float64, torch.int64, torch.bool)))
        if kind == 2:
            return value * float("nan")
        if kind == 3:
            return value[None]
        if kind == 4:
            return torch.zeros(1).expand(1 << 20, 1 << 10)
        return rng.choice(ODD)
    if isinstance(value, dict) and value and rng.random() < 0.9:
        key = rng.choice(list(value))
        changed = dict(value)
        if rng.random() < 0.15:
            del changed[key]
        elif rng.random() < 0.15:
            changed[rng.choice((0, -1, None, "x", "999", (1,)))] = changed[key]
        else:
            changed[key] = _mutate_nested(changed[key], rng)
        return changed
    return mutate_value(value, rng) if not isinstance(value, dict) else rng.choice(ODD)


def _run_json(folder: Path) -> Target:
    from metadeploy.checkpoint.run_dir import RunDir
    from metadeploy.checkpoint.run_json import read_run_json
    from support.card_run import MANIFEST

    def read(path: Path) -> object:
        errors = []
        for step in (
            lambda: read_run_json(path),
            lambda: RunDir(folder).refuse_stale_checkpoint(),
            lambda: RunDir(folder).require("model_name", "collect", made_by="collect"),
        ):
            try:
                step()
            except Error as error:
                errors.append(str(error))
        return None if len(errors) == 3 else errors

    manifest = MANIFEST | {"chat_template_kwargs": {"x": [1]}, "collect": {"layers": [1], "seed": 0}, "num_layers": 7}
    return Target("run_json", (json.dumps(manifest).encode(),), mutate_json, _reader(folder / "run.json", read))


def _questions(folder: Path) -> Target:
    from metadeploy.data.question import read_jsonl

    lines = (
        {"question": "Where?", "answers": ["here", "there"], "category": "place", "entity": "x"},
        {"question": "Which?", "answers": ["A"], "category": "c", "choices": ["one", "two"]},
    )
    seed = "\n".join(map(json.dumps, lines)).encode()
    return Target("questions", (seed,), mutate_lines, _reader(folder / "x.jsonl", read_jsonl))


def _samples(folder: Path) -> Target:
    from metadeploy.evaluation.samples import Samples
    from support.card_run import drawn_samples

    def read(path: Path) -> object:
        samples = Samples.read(path)
        columns = (
            samples.base_correct,
            samples.doubt,
            samples.answer_correct,
            samples.same_words,
            samples.category,
            samples.entity,
        )
        return columns, samples.abstained(0.5), "".join(sample.to_json() for sample in samples)

    seed = "".join(sample.to_json() + "\n" for sample in drawn_samples(4)).encode()
    return Target("samples", (seed,), mutate_lines, _reader(folder / "samples_x.jsonl", read))


def _records(folder: Path) -> Target:
    import torch

    from metadeploy.data.question import Question
    from metadeploy.training.records import Collected, Record

    question = Question("Where?", ("here",), "place")
    record = Record(
        question=question, answer="Here", answer_ids=(1, 2), logprobs=(-0.5, -1.0), complete=True, correct=True
    )
    Collected.write(folder, "train", [record, record], torch.zeros(2, 1, 4), [3])

    def read(_: Path) -> object:
        collected = Collected.read(folder, "train")
        return (
            collected.excluding(["place"]),
            collected.layers_at([3]),
            [record.mean_logprob for record in collected.records],
        )

    seed = (folder / "train.jsonl").read_bytes()
    return Target("records", (seed,), mutate_lines, _reader(folder / "train.jsonl", read))


def _rung(folder: Path) -> Target:
    from metadeploy.evaluation.ladder.samples import Cosine, LadderSample, Rates, RungSamples, column

    sample = LadderSample(
        index=0, question="?", category="c", base_answer="x", base_correct=True, doubt=0.25, answer=None,
        answer_correct=False, activations=Cosine(1.0, 0.5), rates=Rates(5.0, None),
    )  # fmt: skip
    path = folder / "rung_x.json"
    RungSamples(fingerprint="f", files={"base": {"name": "x"}}, samples=(sample, sample)).write(path)

    def read(path: Path) -> object:
        rung = RungSamples.read(path, "f")
        return rung and [column(rung.samples, name) for name in ("doubt", "answer_correct", "declined")]

    return Target("rung", (path.read_bytes(),), mutate_json, _reader(path, read))


def _results(folder: Path) -> Target:
    from metadeploy.card import write_card
    from support.card_run import drawn_samples, results_of, write_run

    shutil.rmtree(folder)
    results = results_of(drawn_samples(40))
    run = write_run(folder, results)
    card = folder / "README.md"

    def read(_: Path) -> object:
        return write_card(run, output=card, force=True)

    return Target(
        "results", (json.dumps(results).encode(),), mutate_json, _reader(folder / "eval" / "results_0.json", read)
    )
