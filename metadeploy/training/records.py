"""What the clean pass found about each question, and its files: JSON Lines, and safetensors for the activations."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from metadeploy._files import write_atomically
from metadeploy._json import JSONFault, build, parse, read_lines
from metadeploy._tensor_files import save_tensors
from metadeploy.data.question import Question
from metadeploy.errors import RunDirError

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["Collected", "Record", "check_categories", "read_records"]


@dataclass(frozen=True, kw_only=True)
class Record:
    """A question and what the base made of it.

    Attributes:
        question: what was asked.
        answer: the base's greedy answer as it is judged: its first sentence, or all of it.
        answer_ids: the shortest run of the generated tokens that says it, without the token that ends the turn.
        logprobs: natural log-probability of each of them.
        complete: False where the length limit cut the answer off.
        correct: the verdict on it.
    """

    question: Question
    answer: str
    answer_ids: tuple[int, ...]
    logprobs: tuple[float, ...]
    complete: bool
    correct: bool

    @property
    def mean_logprob(self) -> float:
        """Mean natural log-probability of the answer's tokens; 0 for an empty one."""
        return sum(self.logprobs) / len(self.logprobs) if self.logprobs else 0.0

    def to_json(self) -> str:
        """One line of JSON."""
        fields = dataclasses.asdict(self)
        fields["logprobs"] = [round(value, 5) for value in self.logprobs]
        return json.dumps(fields, ensure_ascii=False)

    @classmethod
    def from_json(cls, line: str) -> Record:
        """Read a line that `to_json` wrote.

        Raises:
            JSONFault: the line is not such a record.
        """
        return build(cls, parse(line))


@dataclass(frozen=True)
class Collected:
    """One split of what was collected.

    Attributes:
        records: one for each question.
        activations: [n, n_layers, D] at the last prompt token, in the base's dtype.
        layers: which layers those are.
    """

    records: list[Record]
    activations: Tensor
    layers: tuple[int, ...]

    @classmethod
    def read(cls, folder: Path, split: str) -> Collected:
        """Read a split.

        Raises:
            RunDirError: it is not there, or its two files do not fit each other.
        """
        from safetensors import SafetensorError, safe_open

        lines, tensors = folder / f"{split}.jsonl", folder / f"{split}.safetensors"
        records = read_records(lines)
        try:
            with safe_open(tensors, framework="pt") as file:
                layers = build(_Layers, {"layers": parse((file.metadata() or {}).get("layers", ""))}).layers
                activations: Tensor = file.get_tensor("activations")
        except (OSError, SafetensorError, JSONFault) as error:
            raise RunDirError(
                f"collected activations '{tensors}': cannot be read ({error}), expected what metadeploy collect writes "
                "(hint: run it again)"
            ) from error
        if activations.ndim != 3 or activations.shape[1] != len(layers):
            raise RunDirError(
                f"collected activations '{tensors}': have shape {list(activations.shape)} for {len(layers)} layers, "
                "expected [questions, layers, width] (hint: run metadeploy collect --restart)"
            )
        if len(records) != len(activations):
            raise RunDirError(
                f"collected questions '{lines}': holds {len(records)}, beside activations of {len(activations)}, "
                "expected the same (hint: run metadeploy collect --restart)"
            )
        return cls(records, activations, layers)

    @staticmethod
    def write(folder: Path, split: str, records: Sequence[Record], activations: Tensor, layers: Sequence[int]) -> None:
        """Write a split; the text last, so that a split counts as there once it is."""
        layers_text = json.dumps(list(layers))
        save_tensors(folder / f"{split}.safetensors", {"activations": activations}, {"layers": layers_text})
        write_atomically(folder / f"{split}.jsonl", "".join(record.to_json() + "\n" for record in records))

    def others(self, categories: Sequence[str]) -> list[int]:
        """Indices of the questions that are in none of some categories."""
        return [i for i, record in enumerate(self.records) if record.question.category not in categories]

    def at(self, indices: Sequence[int]) -> Collected:
        """Some of them."""
        return Collected([self.records[i] for i in indices], self.activations[list(indices)], self.layers)

    def layers_at(self, layers: Sequence[int]) -> Tensor:
        """Activations of some of the layers: [n, len(layers), D].

        Raises:
            RunDirError: a layer was not collected.
        """
        missing = [layer for layer in layers if layer not in self.layers]
        if missing:
            raise RunDirError(
                f"collected activations: lack layers {missing}, expected some of {list(self.layers)} (hint: run "
                "metadeploy collect --layers all, or choose other --target-layers)"
            )
        return self.activations[:, [self.layers.index(layer) for layer in layers]]


@dataclass(frozen=True)
class _Layers:
    """The metadata of an activations file."""

    layers: tuple[int, ...]


def read_records(path: Path) -> list[Record]:
    """Read a file of `Record.to_json` lines.

    Raises:
        RunDirError: it cannot be read.
    """
    subject, expected = f"collected questions '{path}'", "expected what metadeploy collect writes (hint: run it again)"
    records = []
    for number, fields in read_lines(path, subject=subject, error=RunDirError, expected=expected):
        try:
            records.append(build(Record, fields))
        except JSONFault as fault:
            raise RunDirError(f"{subject}: line {number}: {fault}, {expected}") from None
    return records


def check_categories(splits: Iterable[Collected], categories: Sequence[str]) -> None:
    """Make sure that some categories are known.

    Raises:
        RunDirError: no split has a question of one of them.
    """
    there = {record.question.category for split in splits for record in split.records}
    unknown = sorted(set(categories) - there)
    if unknown:
        raise RunDirError(
            f"collected questions: have no category {', '.join(unknown)}, expected some of {', '.join(sorted(there))}"
        )
