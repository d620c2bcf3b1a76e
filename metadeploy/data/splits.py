"""Training, validation and test parts of a set of questions, with nothing in two of them."""

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
from metadeploy.data.hashing import draw
from metadeploy.data.question import Question, read_jsonl
from metadeploy.errors import Error, faults_message

__all__ = ["FRACTIONS", "SPLITS", "check_leakage", "drawn", "load_set", "split"]

#: The parts, and the usual shares of the entities in them.
FRACTIONS: Final = (0.8, 0.08, 0.12)

_MAX_FAULTS: Final = 10

#: Numbers, words, and signs of arithmetic: 2 + 3 is not 2 × 3.
_WORDS: Final = re.compile(r"\d+(?:[.,]\d+)*|\w+|[-+−×*/÷=<>%](?=[\s\d])")


def split(
    questions: Sequence[Question], *, seed: int = 0, fractions: tuple[float, float, float] = FRACTIONS
) -> dict[str, list[Question]]:
    """Split questions by entity: all questions of one entity, and of one wording, land in one part.

    Where an entity lands is a matter of its hash alone, so that questions can be added without moving the others; only
    where that leaves a category without questions in one of the parts, its nearest entities are moved there.

    Args:
        questions: what to split.
        seed: of the hash.
        fractions: shares of the entities for ``train``, ``val`` and ``test``, each above 0, 1 in sum.

    Returns:
        ``train``, ``val`` and ``test``; each keeps the order of ``questions``. A category of three entities or more
        is in all of them.

    Raises:
        Error: the fractions are no shares, or a question or an entity would be in two parts.
    """
    if (
        len(fractions) != len(SPLITS)
        or not all(fraction > 0 for fraction in fractions)
        or not math.isclose(sum(fractions), 1.0)
    ):
        raise Error(f"split: fractions are {fractions}, expected three numbers above 0 that sum to 1")
    groups = _groups(questions)
    places = {group: draw(seed, group) for group in sorted(set(groups))}
    bounds = (0.0, *accumulate(fractions[:-1]), 1.0)
    parts = {group: _part(place, bounds) for group, place in places.items()}
    _spread_categories(_groups_by_category(questions, groups), parts, places, bounds)
    splits: dict[str, list[Question]] = {name: [] for name in SPLITS}
    for question, group in zip(questions, groups, strict=True):
        splits[SPLITS[parts[group]]].append(question)
    check_leakage(splits)
    return splits


def load_set(
    name_or_path: str | os.PathLike[str],
    *,
    seed: int = 0,
    fractions: tuple[float, float, float] = FRACTIONS,
    source: str | os.PathLike[str] | None = None,
    limit: int | None = None,
) -> dict[str, list[Question]]:
    """Load a set of questions, split.

    Args:
        name_or_path: ``facts``, ``mmlu``, ``triviaqa``, ``gsm8k``; or a JSON Lines file; or a folder with
            ``train.jsonl``, ``val.jsonl`` and ``test.jsonl``, which are taken as they are.
        seed: of the `facts` drawn and of the split; it changes nothing in a folder.
        fractions: as in `split`.
        source: a local copy of ``mmlu``, ``triviaqa`` or ``gsm8k`` (`metadeploy.data.loaders.load`).
        limit: at most so many questions in all, drawn by their hash before the split; of a folder, of each part.

    Returns:
        ``train``, ``val`` and ``test``, none of them empty, with nothing in two of them.

    Raises:
        Error: no such set, a malformed file, a part without questions, or a leak between the parts.
        MissingDependencyError: a package that the set needs is not installed.
    """
    name, path = os.fspath(name_or_path), Path(name_or_path)
    if source is None and path.is_dir():
        splits = {part: drawn(read_jsonl(path / f"{part}.jsonl"), limit, seed) for part in SPLITS}
        check_leakage(splits)
    else:
        questions = _read(name, seed=seed, source=source)
        splits = split(drawn(questions, limit, seed), seed=seed, fractions=fractions)
    empty = [part for part in SPLITS if not splits[part]]
    if empty:
        raise Error(f"questions '{name}': no question in {', '.join(empty)}, expected some (hint: more questions)")
    return splits


def _read(name: str, *, seed: int, source: str | os.PathLike[str] | None) -> list[Question]:
    from metadeploy.data.loaders import ADAPTERS, load

    if name in ADAPTERS:
        return load(name, source)
    if source is not None:
        raise Error(
            f"questions '{name}': a source is given, expected only with {', '.join(ADAPTERS)} (hint: files and folders "
            "of questions are named themselves)"
        )
    if name == "facts":
        from metadeploy.data.facts import generate

        return generate(seed)
    if not Path(name).exists():
        known = ", ".join(("facts", *ADAPTERS))
        raise Error(f"questions '{name}': no such file or folder, and not one of {known}")
    return read_jsonl(name)


def drawn(questions: list[Question], limit: int | None, seed: int) -> list[Question]:
    """At most so many of the questions, drawn by their hash so that all kinds are there, in their order.

    Raises:
        Error: ``limit`` is below 1.
    """
    if limit is None or len(questions) <= limit:
        return questions
    if limit < 1:
        raise Error(f"questions: the limit is {limit}, expected at least 1")
    chosen = sorted(range(len(questions)), key=lambda place: draw(seed, "limit", _wording(questions[place])))
    return [questions[place] for place in sorted(chosen[:limit])]


def check_leakage(splits: Mapping[str, Sequence[Question]]) -> None:
    """Make sure that no entity and no wording is in two parts.

    Wordings are the same where they differ in case, accents, punctuation and spaces alone, and have the same choices.

    Args:
        splits: parts by their name.

    Raises:
        Error: something is in two parts; the first ten are named.
    """
    homes: dict[str, str] = {}
    faults: dict[str, None] = {}
    for name, questions in splits.items():
        for question in questions:
            keys = [_wording(question)] + ([f"entity {question.entity}"] if question.entity else [])
            for key in keys:
                home = homes.setdefault(key, name)
                if home != name:
                    what = f"entity '{question.entity}'" if key.startswith("entity ") else "question"
                    faults[f"{what} is in '{home}' and in '{name}' ({question.question!r})"] = None
    if faults:
        named = list(faults)[:_MAX_FAULTS]
        if len(faults) > len(named):
            named.append(f"and {len(faults) - len(named)} more")
        raise Error(faults_message("splits: expected nothing in two parts", named))


def _wording(question: Question) -> str:
    texts = (question.question, *(question.choices or ()))
    return "question " + " | ".join(" ".join(_WORDS.findall(fold(text).casefold())) for text in texts)


def _groups(questions: Sequence[Question]) -> list[str]:
    """For each question the name of what it must stay together with: everything of its entity or its wording."""
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
        # an entity, where there is one, names the group: it does not change when questions are added
        parents[max(one, other)] = min(one, other)
    return [root(key) for key in keys]


def _groups_by_category(questions: Sequence[Question], groups: Sequence[str]) -> dict[str, list[str]]:
    """The groups that have questions of each category, sorted."""
    found: dict[str, set[str]] = {}
    for question, group in zip(questions, groups, strict=True):
        found.setdefault(question.category, set()).add(group)
    return {category: sorted(found[category]) for category in sorted(found)}


def _part(place: float, bounds: Sequence[float]) -> int:
    return next(part for part in range(len(SPLITS) - 1, -1, -1) if place >= bounds[part])


def _spread_categories(
    categories: Mapping[str, Sequence[str]],
    parts: dict[str, int],
    places: Mapping[str, float],
    bounds: Sequence[float],
) -> None:
    """Move groups so that every category with enough of them is in every part; changes ``parts``.

    A group is moved only if every category that it leaves has another one left there, so a move mends and never harms.
    """

    def population(category: str, part: int) -> int:
        return sum(parts[group] == part for group in categories[category])

    of_group: dict[str, list[str]] = {}
    for category, members in categories.items():
        for group in members:
            of_group.setdefault(group, []).append(category)
    for category, members in categories.items():
        for part in range(len(SPLITS)):
            if len(members) < len(SPLITS) or population(category, part):
                continue
            free = [group for group in members if all(population(each, parts[group]) > 1 for each in of_group[group])]
            if free:
                middle = (bounds[part] + bounds[part + 1]) / 2
                parts[min(free, key=lambda group: abs(places[group] - middle))] = part
