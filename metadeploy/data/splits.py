"""Split a set of questions into training, validation and test questions without leaks between them."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Mapping, Sequence
from itertools import accumulate
from pathlib import Path
from typing import Final

from metadeploy._types import SPLITS
from metadeploy.data.checker import fold
from metadeploy.data.hashing import hash_uniform
from metadeploy.data.question import Question, read_jsonl
from metadeploy.errors import Error, faults_message

__all__ = [
    "FRACTIONS",
    "SPLITS",
    "check_leakage",
    "load_set",
    "sample_questions",
    "shuffle_questions",
    "split",
    "split_off",
]

#: Default proportions of the entities in ``train``, ``val`` and ``test``.
FRACTIONS: Final = (0.8, 0.08, 0.12)

_MAX_FAULTS: Final = 10

#: Numbers, words and arithmetic signs, because 2 + 3 and 2 × 3 are different questions.
_WORDS: Final = re.compile(r"\d+(?:[.,]\d+)*|\w+|[-+−×*/÷=<>%](?=[\s\d])")


def split(
    questions: Sequence[Question], *, seed: int = 0, fractions: tuple[float, float, float] = FRACTIONS
) -> dict[str, list[Question]]:
    """Split questions by entity: all questions about one entity, and all of one wording, go into one part.

    The hash of an entity decides its part, so that new questions do not move the others. If this leaves a category
    without questions in a part, the entities with the nearest hashes move there.

    Args:
        questions: the questions.
        seed: seed of the hash.
        fractions: proportions of the entities for ``train``, ``val`` and ``test``, each above 0, with the sum 1.

    Returns:
        ``train``, ``val`` and ``test``, each in the order of ``questions``. A category with at least three entities is
        in all of them.

    Raises:
        Error: the fractions are invalid, or a question or an entity would be in two parts.
    """
    if (
        len(fractions) != len(SPLITS)
        or not all(fraction > 0 for fraction in fractions)
        or not math.isclose(sum(fractions), 1.0)
    ):
        raise Error(f"split: fractions are {fractions}, expected three numbers above 0 that sum to 1")
    groups = _group_names(questions)
    hashes = {group: hash_uniform(seed, group) for group in sorted(set(groups))}
    bounds = (0.0, *accumulate(fractions[:-1]), 1.0)
    parts = {group: _part(place, bounds) for group, place in hashes.items()}
    _fill_parts(_groups_by_category(questions, groups), parts, hashes, bounds)
    splits: dict[str, list[Question]] = {name: [] for name in SPLITS}
    for question, group in zip(questions, groups, strict=True):
        splits[SPLITS[parts[group]]].append(question)
    check_leakage(splits)
    return splits


def split_off(
    questions: Sequence[Question], fraction: float, *, seed: int = 0
) -> tuple[list[Question], list[Question]]:
    """Split a part off some questions, by entity: the others, and the part, each in their order.

    Args:
        questions: the questions.
        fraction: proportion of the entities in the part.
        seed: seed of the hash that decides.
    """
    groups = _group_names(questions)
    chosen = [hash_uniform(seed, "part", group) < fraction for group in groups]
    others = [question for question, is_chosen in zip(questions, chosen, strict=True) if not is_chosen]
    return others, [question for question, is_chosen in zip(questions, chosen, strict=True) if is_chosen]


def load_set(
    name_or_path: str | os.PathLike[str],
    *,
    seed: int = 0,
    fractions: tuple[float, float, float] = FRACTIONS,
    source: str | os.PathLike[str] | None = None,
    limit: int | None = None,
) -> dict[str, list[Question]]:
    """Load a set of questions and split it.

    Args:
        name_or_path: ``facts``, ``mmlu``, ``triviaqa`` or ``gsm8k``, a JSON Lines file, or a folder with
            ``train.jsonl``, ``val.jsonl`` and ``test.jsonl``, which is not split again.
        seed: seed of the `facts` set and of the split. It has no effect on a folder.
        fractions: as in `split`.
        source: a local copy of ``mmlu``, ``triviaqa`` or ``gsm8k`` (`metadeploy.data.loaders.load`).
        limit: maximum number of questions, sampled by their hash before the split; for a folder, in each part.

    Returns:
        ``train``, ``val`` and ``test``, none of them empty, without leaks between them.

    Raises:
        Error: no such set, a malformed file, a part without questions, or a leak between the parts.
        MissingDependencyError: a package that the set needs is not installed.
    """
    name, path = os.fspath(name_or_path), Path(name_or_path)
    if source is None and path.is_dir():
        splits = {part: sample_questions(read_jsonl(path / f"{part}.jsonl"), limit, seed) for part in SPLITS}
        check_leakage(splits)
    else:
        questions = _read(name, seed=seed, source=source)
        splits = split(sample_questions(questions, limit, seed), seed=seed, fractions=fractions)
    empty = [part for part in SPLITS if not splits[part]]
    if empty:
        raise Error(f"questions '{name}': no question in {', '.join(empty)}, expected some (hint: more questions)")
    return splits


def _read(name: str, *, seed: int, source: str | os.PathLike[str] | None) -> list[Question]:
    from metadeploy.data.loaders import LOADERS, load

    if name in LOADERS:
        return load(name, source)
    if source is not None:
        raise Error(
            f"questions '{name}': a source is given, expected only with {', '.join(LOADERS)} (hint: name a file or "
            "folder of questions directly)"
        )
    if name == "facts":
        from metadeploy.data.facts import generate

        return generate(seed)
    if not Path(name).exists():
        known = ", ".join(("facts", *LOADERS))
        raise Error(f"questions '{name}': no such file or folder, and not one of {known}")
    return read_jsonl(name)


def sample_questions(questions: list[Question], limit: int | None, seed: int) -> list[Question]:
    """Return at most ``limit`` questions, sampled by their hash from all categories, in their order.

    Raises:
        Error: ``limit`` is below 1.
    """
    if limit is None or len(questions) <= limit:
        return questions
    if limit < 1:
        raise Error(f"questions: the limit is {limit}, expected at least 1")
    return [questions[place] for place in sorted(_random_places(questions, seed)[:limit])]


def shuffle_questions(questions: Sequence[Question], seed: int) -> list[Question]:
    """Return the questions in a random order, of which the first n are those that `sample_questions` samples."""
    return [questions[place] for place in _random_places(questions, seed)]


def _random_places(questions: Sequence[Question], seed: int) -> list[int]:
    return sorted(range(len(questions)), key=lambda place: hash_uniform(seed, "limit", _wording(questions[place])))


def check_leakage(splits: Mapping[str, Sequence[Question]]) -> None:
    """Check that no entity and no wording is in two parts.

    Two wordings are the same if they differ only in case, accents, punctuation and spaces, and have the same choices.

    Args:
        splits: the parts by name.

    Raises:
        Error: an entity or wording is in two parts; the message lists up to ten.
    """
    homes: dict[str, str] = {}
    faults: dict[str, None] = {}
    for name, questions in splits.items():
        for question in questions:
            keys = [_wording(question)] + ([f"entity {question.entity}"] if question.entity else [])
            for key in keys:
                home = homes.setdefault(key, name)
                if home != name:
                    subject = f"entity '{question.entity}'" if key.startswith("entity ") else "question"
                    faults[f"{subject} is in '{home}' and in '{name}' ({question.question!r})"] = None
    if faults:
        named = list(faults)[:_MAX_FAULTS]
        if len(faults) > len(named):
            named.append(f"and {len(faults) - len(named)} more")
        raise Error(faults_message("splits: expected nothing in two parts", named))


def _wording(question: Question) -> str:
    texts = (question.question, *(question.choices or ()))
    return "question " + " | ".join(" ".join(_WORDS.findall(fold(text).casefold())) for text in texts)


def _group_names(questions: Sequence[Question]) -> list[str]:
    """Return the name of each question's group: questions of one entity or one wording must stay together."""
    parents: dict[str, str] = {}

    def root(key: str) -> str:
        while parents.setdefault(key, key) != key:
            parents[key] = key = parents[parents[key]]
        return key

    keys = []
    for question in questions:
        wording = _wording(question)
        keys.append(f"entity {question.entity}" if question.entity else wording)
        one, other = root(keys[-1]), root(wording)
        # an entity, if there is one, names the group, so that the name stays the same when questions are added
        parents[max(one, other)] = min(one, other)
    return [root(key) for key in keys]


def _groups_by_category(questions: Sequence[Question], groups: Sequence[str]) -> dict[str, list[str]]:
    """Return the groups that have questions of each category, sorted."""
    groups_of: dict[str, set[str]] = {}
    for question, group in zip(questions, groups, strict=True):
        groups_of.setdefault(question.category, set()).add(group)
    return {category: sorted(groups_of[category]) for category in sorted(groups_of)}


def _part(place: float, bounds: Sequence[float]) -> int:
    return next(part for part in range(len(SPLITS) - 1, -1, -1) if place >= bounds[part])


def _fill_parts(
    categories: Mapping[str, Sequence[str]],
    parts: dict[str, int],
    places: Mapping[str, float],
    bounds: Sequence[float],
) -> None:
    """Move groups so that every category with enough groups is in every part; changes ``parts``.

    A group moves only if each of its categories has another group in the old part, so no move makes a part worse.
    """

    def n_groups(category: str, part: int) -> int:
        return sum(parts[group] == part for group in categories[category])

    categories_of: dict[str, list[str]] = {}
    for category, members in categories.items():
        for group in members:
            categories_of.setdefault(group, []).append(category)
    for category, members in categories.items():
        for part in range(len(SPLITS)):
            if len(members) < len(SPLITS) or n_groups(category, part):
                continue
            movable = [
                group for group in members if all(n_groups(other, parts[group]) > 1 for other in categories_of[group])
            ]
            if movable:
                middle = (bounds[part] + bounds[part + 1]) / 2
                parts[min(movable, key=lambda group: abs(places[group] - middle))] = part
