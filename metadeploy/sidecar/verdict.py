"""The verdict head in a sidecar: an MLP that judges an answer by activations and log-probabilities of its tokens.

``csrc/sidecar/verdict.cpp`` is the C++ twin; docs/sidecar-format.md specifies keys and tensors.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from metadeploy.errors import shown
from metadeploy.sidecar import keys
from metadeploy.sidecar.gguf_file import Value
from metadeploy.sidecar.layout import Shape, same_shape
from metadeploy.sidecar.rules import (
    MAX_CALIBRATION,
    MAX_GUARANTEES,
    MAX_INT,
    MAX_LAYERS,
    MAX_VERDICT_HIDDEN,
    MAX_VERDICT_LAYERS,
)

__all__ = [
    "FIGURE_NAMES",
    "VERDICT_PREFIX",
    "VERDICT_VERSION",
    "ErrorGuarantee",
    "VerdictConfig",
    "VerdictHead",
    "Window",
    "read_verdict_config",
    "verdict_keys",
    "verdict_tensors",
]

#: Newest version of the head that this code reads, and the one that it writes.
VERDICT_VERSION: Final = 1

#: Beginning of the names of the head's tensors.
VERDICT_PREFIX: Final = "verdict."

#: Figures of an answer's tokens that a head reads, in this order. See `metadeploy.runtime.types.SentenceFeatures`.
FIGURE_NAMES: Final = (
    "log_n_tokens",
    "logprob_sum",
    "logprob_mean",
    "logprob_min",
    "logprob_first",
    "entropy_mean",
    "entropy_max",
    "entropy_first",
    "margin_mean",
    "margin_min",
    "margin_first",
)

#: The part of an answer that a head was trained to judge.
Window: TypeAlias = Literal["first_sentence", "answer"]

_WINDOWS: Final[tuple[Window, ...]] = ("first_sentence", "answer")
_HIDDEN_WEIGHT: Final = "verdict.hidden.weight"


@dataclass(frozen=True)
class ErrorGuarantee:
    """An error rate that is guaranteed for the answers that are kept.

    Attributes:
        max_error: of the answers whose ``p_wrong`` is at most the threshold, at most this proportion is wrong.
        threshold: the threshold.
        coverage: proportion of the calibration questions whose answers are kept.
    """

    max_error: float
    threshold: float
    coverage: float


@dataclass(frozen=True, kw_only=True)
class VerdictConfig:
    """The verdict head without its weights.

    Its inputs are the outputs of the prompt layers at the prompt's last token, the mean outputs of the answer layers
    over the tokens of the window, and the figures of `FIGURE_NAMES`, in this order. Its output z is a logit of being
    wrong, and the verdict is sigmoid(slope · z + intercept).

    Attributes:
        prompt_layers: layers that it reads at the last token of the prompt, in the clean pass.
        answer_layers: layers whose mean over the tokens of the window it reads.
        hidden_dim: D, width of the base.
        n_hidden: number of hidden units.
        window: the part of the answer that it was trained to judge.
        slope: calibration of the logit.
        intercept: calibration of the logit.
        guarantees: error rates with a guarantee, ascending. They hold for questions like the calibration questions, for
            the base's own answers, and for the base with this digest.
        delta: probability that a guarantee does not hold.
        n_calibration: number of independent calibration questions; 0 if unknown.
        questions: name of the set of the calibration questions; empty if unknown.
        base_sha256: SHA-256 of the base's file; empty if unknown.
    """

    prompt_layers: tuple[int, ...]
    answer_layers: tuple[int, ...]
    hidden_dim: int
    n_hidden: int
    window: Window = "first_sentence"
    slope: float = 1.0
    intercept: float = 0.0
    guarantees: tuple[ErrorGuarantee, ...] = ()
    delta: float = 0.0
    n_calibration: int = 0
    questions: str = ""
    base_sha256: str = ""

    @property
    def n_inputs(self) -> int:
        """Number of inputs."""
        return (len(self.prompt_layers) + len(self.answer_layers)) * self.hidden_dim + len(FIGURE_NAMES)


@dataclass(frozen=True)
class VerdictHead:
    """A verdict head with its weights.

    Attributes:
        config: layers, sizes and calibration.
        tensors: float32 arrays by sidecar name, see `verdict_tensors`.
    """

    config: VerdictConfig
    tensors: Mapping[str, NDArray[np.float32]]


def verdict_tensors(config: VerdictConfig) -> dict[str, Shape]:
    """Return the shape of each tensor of a head, by its name in the sidecar."""
    return {
        "verdict.input.mean": (config.n_inputs,),
        "verdict.input.scale": (config.n_inputs,),
        _HIDDEN_WEIGHT: (config.n_hidden, config.n_inputs),
        "verdict.hidden.bias": (config.n_hidden,),
        "verdict.output.weight": (1, config.n_hidden),
        "verdict.output.bias": (1,),
    }


def verdict_keys(config: VerdictConfig, prefix: str) -> dict[str, Value]:
    """Return the head's metadata, by key."""
    values = {
        keys.VERDICT_VERSION: Value("u32", VERDICT_VERSION),
        keys.VERDICT_PROMPT_LAYERS: Value("[i32]", list(config.prompt_layers)),
        keys.VERDICT_ANSWER_LAYERS: Value("[i32]", list(config.answer_layers)),
        keys.VERDICT_FIGURES: Value("str", ",".join(FIGURE_NAMES)),
        keys.VERDICT_WINDOW: Value("str", config.window),
        keys.VERDICT_SLOPE: Value("f32", float(np.float32(config.slope))),
        keys.VERDICT_INTERCEPT: Value("f32", float(np.float32(config.intercept))),
    }
    if config.guarantees:
        values |= {
            keys.VERDICT_MAX_ERRORS: Value("[f32]", [guarantee.max_error for guarantee in config.guarantees]),
            keys.VERDICT_THRESHOLDS: Value("[f32]", [guarantee.threshold for guarantee in config.guarantees]),
            keys.VERDICT_COVERAGES: Value("[f32]", [guarantee.coverage for guarantee in config.guarantees]),
            keys.VERDICT_DELTA: Value("f32", config.delta),
            keys.VERDICT_N: Value("u32", config.n_calibration),
        }
    values |= {
        key: Value("str", text)
        for key, text in ((keys.VERDICT_QUESTIONS, config.questions), (keys.VERDICT_BASE_SHA256, config.base_sha256))
        if text
    }
    return {key.format(prefix=prefix): value for key, value in values.items()}


def read_verdict_config(
    metadata: Mapping[str, Value], prefix: str, shapes: Mapping[str, Shape], hidden_dim: int, n_blocks: int | None
) -> tuple[VerdictConfig | None, list[str]]:
    """Read and check the verdict head of a file.

    Args:
        metadata: all keys of the file.
        prefix: the prefix of its keys.
        shapes: shapes of its tensors.
        hidden_dim: width of the base; 0 if unknown.
        n_blocks: number of decoder blocks of the base; None if unknown.

    Returns:
        The config, or None if the file has no head or an unusable one, and the faults.
    """
    has_tensors = any(name.startswith(VERDICT_PREFIX) for name in shapes)
    if not has_tensors and keys.VERDICT_VERSION.format(prefix=prefix) not in metadata:
        return None, []
    reader = _Reader(metadata, prefix)
    if not reader.version_is_known():
        return None, reader.faults
    prompt_layers = reader.layers(keys.VERDICT_PROMPT_LAYERS, n_blocks)
    answer_layers = reader.layers(keys.VERDICT_ANSWER_LAYERS, n_blocks)
    if not prompt_layers and not answer_layers:
        reader.fault(keys.VERDICT_ANSWER_LAYERS, "names no layers, expected at least one")
    reader.check_figures()
    window = reader.window()
    slope = reader.calibration(keys.VERDICT_SLOPE, 1.0)
    intercept = reader.calibration(keys.VERDICT_INTERCEPT, 0.0)
    guarantees = reader.guarantees()
    provenance = reader.provenance()
    weight = shapes.get(_HIDDEN_WEIGHT)
    if weight is None:
        return None, [*reader.faults, f"tensor '{_HIDDEN_WEIGHT}' is missing"]
    n_hidden = weight[0] if len(weight) > 1 else 1  # files omit outer dimensions of 1
    if n_hidden > MAX_VERDICT_HIDDEN:
        what = f"the tensors say that the verdict head has {n_hidden} hidden units"
        return None, [*reader.faults, f"{what}, expected at most {MAX_VERDICT_HIDDEN}"]
    config = VerdictConfig(
        prompt_layers=prompt_layers,
        answer_layers=answer_layers,
        hidden_dim=hidden_dim,
        n_hidden=n_hidden,
        window=window,
        slope=slope,
        intercept=intercept,
        guarantees=guarantees,
        **provenance,
    )
    return config, reader.faults + _shape_faults(config, shapes)


def _shape_faults(config: VerdictConfig, shapes: Mapping[str, Shape]) -> list[str]:
    faults = []
    for name, expected in verdict_tensors(config).items():
        if name not in shapes:
            faults.append(f"tensor '{name}' is missing, expected shape {list(expected)}")
        elif not same_shape(shapes[name], expected):
            faults.append(f"tensor '{name}' has shape {list(shapes[name])}, expected {list(expected)}")
    return faults


class _Reader:
    """Reads the head's keys, and collects their faults."""

    def __init__(self, metadata: Mapping[str, Value], prefix: str) -> None:
        self._metadata, self._prefix = metadata, prefix
        self.faults: list[str] = []

    def fault(self, template: str, what: str) -> None:
        self.faults.append(f"key '{template.format(prefix=self._prefix)}' {what}")

    def version_is_known(self) -> bool:
        version = self._typed(keys.VERDICT_VERSION, "u32", ("u32", "i32", "u64", "i64"))
        if self._value(keys.VERDICT_VERSION) is None:
            self.fault(keys.VERDICT_VERSION, "is missing, but there are tensors of a verdict head")
        elif version is not None and not 0 <= version <= MAX_INT:
            self.fault(keys.VERDICT_VERSION, f"is {version}, expected 0 to {MAX_INT}")
        elif version is not None and version != VERDICT_VERSION:
            self.fault(keys.VERDICT_VERSION, f"is {version}, expected {VERDICT_VERSION} (hint: update metadeploy)")
        return bool(version == VERDICT_VERSION)

    def layers(self, template: str, n_blocks: int | None) -> tuple[int, ...]:
        layers = self._typed(template, "[i32]", ("[i32]", "[u32]", "[i64]", "[u64]")) or []
        end = MAX_LAYERS if n_blocks is None else min(n_blocks, MAX_LAYERS)
        outside = [layer for layer in layers if not 0 <= layer < end]
        if len(layers) > MAX_VERDICT_LAYERS:
            self.fault(template, f"has {len(layers)} entries, expected at most {MAX_VERDICT_LAYERS}")
            return ()
        if outside:
            self.fault(template, f"has layer {outside[0]}, expected layers from 0 to {end - 1}")
        elif len(set(layers)) != len(layers):
            self.fault(template, f"{shown(layers)} names a layer twice")
        return tuple(layers)

    def check_figures(self) -> None:
        figures = self._typed(keys.VERDICT_FIGURES, "str", ("str",)) or ""
        expected = ",".join(FIGURE_NAMES)
        if figures != expected:
            self.fault(keys.VERDICT_FIGURES, f"is '{shown(figures)}', expected '{expected}'")

    def window(self) -> Window:
        window = self._typed(keys.VERDICT_WINDOW, "str", ("str",))
        if window is not None and window not in _WINDOWS:
            self.fault(keys.VERDICT_WINDOW, f"is '{shown(window)}', expected one of {', '.join(_WINDOWS)}")
        return "answer" if window == "answer" else "first_sentence"

    def calibration(self, template: str, default: float) -> float:
        value = self._typed(template, "f32", ("f32",))
        number = default if value is None else float(value)
        if not abs(number) <= MAX_CALIBRATION or math.isnan(number):
            self.fault(template, f"is {number}, expected -{MAX_CALIBRATION:g} to {MAX_CALIBRATION:g}")
        return number

    def guarantees(self) -> tuple[ErrorGuarantee, ...]:
        names = (keys.VERDICT_MAX_ERRORS, keys.VERDICT_THRESHOLDS, keys.VERDICT_COVERAGES)
        max_errors, thresholds, coverages = (self._rates(name) for name in names)
        if not len(max_errors) == len(thresholds) == len(coverages):
            self.fault(
                keys.VERDICT_MAX_ERRORS,
                f"has {len(max_errors)} entries for {len(thresholds)} thresholds and {len(coverages)} coverages, "
                "expected as many",
            )
            return ()
        if max_errors != sorted(max_errors):
            self.fault(keys.VERDICT_MAX_ERRORS, "is not in ascending order")
        return tuple(map(ErrorGuarantee, max_errors, thresholds, coverages))

    def provenance(self) -> dict[str, Any]:
        delta = self._typed(keys.VERDICT_DELTA, "f32", ("f32",)) or 0.0
        if not 0 <= delta <= 1:
            self.fault(keys.VERDICT_DELTA, f"is {delta}, expected 0 to 1")
        n = self._typed(keys.VERDICT_N, "u32", ("u32", "i32", "u64", "i64")) or 0
        if not 0 <= n <= MAX_INT:
            self.fault(keys.VERDICT_N, f"is {n}, expected 0 to {MAX_INT}")
        return {
            "delta": delta,
            "n_calibration": n,
            "questions": self._typed(keys.VERDICT_QUESTIONS, "str", ("str",)) or "",
            "base_sha256": self._typed(keys.VERDICT_BASE_SHA256, "str", ("str",)) or "",
        }

    def _rates(self, template: str) -> list[float]:
        values: list[float] = self._typed(template, "[f32]", ("[f32]",)) or []
        if len(values) > MAX_GUARANTEES:
            self.fault(template, f"has {len(values)} entries, expected at most {MAX_GUARANTEES}")
            return []
        odd = [value for value in values if not 0 <= value <= 1]
        if odd:
            self.fault(template, f"has {odd[0]}, expected rates from 0 to 1")
        return values

    def _value(self, template: str) -> Value | None:
        return self._metadata.get(template.format(prefix=self._prefix))

    def _typed(self, template: str, expected: str, types: tuple[str, ...]) -> Any:
        value = self._value(template)
        if value is None:
            return None
        if value.type not in types:
            self.fault(template, f"has type {value.type}, expected {expected}")
            return None
        return value.value
