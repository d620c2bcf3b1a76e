"""Collected data about each question, and its files: JSON Lines, and safetensors for the activations."""

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
    """A question and the base's answer to it.

    Attributes:
        question: the question.
        answer: the part of the base's greedy answer that is scored: its first sentence, or all of it.
        answer_ids: the fewest generated tokens that contain it, without the token that ends the turn.
        logprobs: natural log-probability of each token.
        complete: False if the length limit cut the answer off.
        correct: whether the answer is right.
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
        """Return one line of JSON."""
        fields = dataclasses.asdict(self)
        fields["logprobs"] = [round(value, 5) for value in self.logprobs]
        return json.dumps(fields, ensure_ascii=False)

    @classmethod
    def from_json(cls, line: str) -> Record:
        """Parse a line that `to_json` wrote.

        Raises:
            JSONFault: the line is not a record.
        """
        return build(cls, parse(line))


@dataclass(frozen=True)
class Collected:
    """The collected data of one split.

    Attributes:
        records: one for each question.
        activations: [n, n_layers, D] at the last prompt token, in the base's dtype.
        layers: the layers of the activations.
    """

    records: list[Record]
    activations: Tensor
    layers: tuple[int, ...]

    @classmethod
    def read(cls, folder: Path, split: str) -> Collected:
        """Read a split.

        Raises:
            RunDirError: a file is missing or malformed, or the two files do not belong together.
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
                f"collected activations '{tensors}': cannot be read ({error}), expected a file that metadeploy collect "
                "wrote (hint: run it again)"
            ) from error
        if activations.ndim != 3 or activations.shape[1] != len(layers):
            raise RunDirError(
                f"collected activations '{tensors}': have shape {list(activations.shape)} for {len(layers)} layers, "
                "expected [questions, layers, width] (hint: run metadeploy collect --restart)"
            )
        if len(records) != len(activations):
            raise RunDirError(
                f"collected questions '{lines}': holds {len(records)}, but there are activations of "
                f"{len(activations)}, expected equal numbers (hint: run metadeploy collect --restart)"
            )
        return cls(records, activations, layers)

    @staticmethod
    def write(folder: Path, split: str, records: Sequence[Record], activations: Tensor, layers: Sequence[int]) -> None:
        """Write a split. The text is written last, so that a split is complete if its text file exists."""
        layers_text = json.dumps(list(layers))
        save_tensors(folder / f"{split}.safetensors", {"activations": activations}, {"layers": layers_text})
        write_atomically(folder / f"{split}.jsonl", "".join(record.to_json() + "\n" for record in records))

    def excluding(self, categories: Sequence[str]) -> list[int]:
        """Return the indices of the questions that are in none of these categories."""
        return [i for i, record in enumerate(self.records) if record.question.category not in categories]

    def at(self, indices: Sequence[int]) -> Collected:
        """Return the data of some of the questions."""
        return Collected([self.records[i] for i in indices], self.activations[list(indices)], self.layers)

    def layers_at(self, layers: Sequence[int]) -> Tensor:
        """Return the activations of some of the layers: [n, len(layers), D].

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
    subject = f"collected questions '{path}'"
    expected = "expected a file that metadeploy collect wrote (hint: run it again)"
    records = []
    for number, fields in read_lines(path, subject=subject, error=RunDirError, expected=expected):
        try:
            records.append(build(Record, fields))
        except JSONFault as fault:
            raise RunDirError(f"{subject}: line {number}: {fault}, {expected}") from None
    return records


def check_categories(splits: Iterable[Collected], categories: Sequence[str]) -> None:
    """Check that categories exist.

    Raises:
        RunDirError: for one of the categories, no split has a question.
    """
    known = {record.question.category for split in splits for record in split.records}
    unknown = sorted(set(categories) - known)
    if unknown:
        raise RunDirError(
            f"collected questions: have no category {', '.join(unknown)}, expected some of {', '.join(sorted(known))}"
        )
