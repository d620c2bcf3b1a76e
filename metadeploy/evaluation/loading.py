"""Loads the engine of an evaluation, and records everything about it."""

from __future__ import annotations

import os
import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Final

from metadeploy._files import content_digest, sha256
from metadeploy._version import own_version
from metadeploy.checkpoint.run_dir import RunDir
from metadeploy.errors import RunDirError
from metadeploy.evaluation.engines import AnswerLimits, Engine
from metadeploy.evaluation.settings import EvalSettings
from metadeploy.sidecar import WrapperConfig, read_sidecar

__all__ = ["Loaded", "answer_environment", "answer_limits", "environment", "identity", "load_engine"]

#: Number of questions that the runtime answers at once.
_N_PARALLEL: Final = 4
#: Keys of an environment that do not affect answers.
_IRRELEVANT_KEYS: Final = frozenset({"python", "platform", "cpu_count", "numpy", "scipy", "scikit-learn"})


@dataclass(frozen=True)
class Loaded:
    """A loaded engine and its description.

    Attributes:
        engine: the engine.
        wrapper: configuration of the wrapper.
        gates: gates of its cross-attention, before the tanh, by layer.
        token_preferences: [C] token preferences of the cross-attention by layer.
        tag: short name of base and wrapper, for file names.
        limits: limits of the answers, the same as in collecting.
        described: base, wrapper and settings that affect the answers.
        environment: software and machine.
    """

    engine: Engine
    wrapper: WrapperConfig
    gates: Mapping[int, float]
    token_preferences: Sequence[Sequence[float]]
    tag: str
    limits: AnswerLimits
    described: dict[str, Any]
    environment: dict[str, Any]

    @property
    def refusal_text(self) -> str:
        """The trained refusal."""
        return self.engine.refusal_text


def load_engine(run: RunDir, settings: EvalSettings) -> Loaded:
    """Load base and wrapper.

    Raises:
        RunDirError: the wrapper is missing, or the runtime needs a GGUF and run.json does not name one.
        ModelLoadError: the base cannot be loaded.
        ModelMismatchError: the two do not fit each other.
    """
    limits = answer_limits(run)
    if settings.base is None:
        run.refuse_other_base()
    base = settings.base or str(run.manifest["model_name"])
    return (_load_torch if settings.engine == "torch" else _load_runtime)(run, settings, base, limits)


def answer_limits(run: RunDir) -> AnswerLimits:
    """Return the limits with which the run's questions were collected."""
    collected = run.manifest["collect"]
    return AnswerLimits(
        max_new_tokens=collected.get("max_new_tokens", AnswerLimits.max_new_tokens),
        whole_answer=collected.get("whole_answer", AnswerLimits.whole_answer),
    )


def _load_torch(run: RunDir, settings: EvalSettings, base: str, limits: AnswerLimits) -> Loaded:
    import torch

    from metadeploy.evaluation.engines.torch_engine import TorchEngine
    from metadeploy.reference.config import MetaSpiderConfig
    from metadeploy.reference.doubter import Doubter
    from metadeploy.reference.pipeline import MetaSpiderPipeline

    if settings.threads is not None:
        torch.set_num_threads(settings.threads)
    wrapper = _wrapper(settings.sidecar or run.checkpoint, "train")
    dtype, quantization = settings.dtype or run.manifest.get("dtype", "auto"), run.manifest.get("quantization")
    config = MetaSpiderConfig(model_name=base, dtype=dtype, device=settings.device, quantization=quantization)
    pipeline = MetaSpiderPipeline.from_pretrained(config)
    doubter = pipeline.attach(Doubter.from_checkpoint(wrapper, refusal_text=settings.refusal_text))
    attentions = {layer: doubter.cross_attention(layer) for layer in doubter.config.cross_attn_layers}
    return Loaded(
        TorchEngine(pipeline, limits=limits, batch_size=settings.batch_size),
        doubter.config,
        {layer: float(attention.gate.detach()) for layer, attention in attentions.items()},
        [attention.token_preference.detach().tolist() for attention in attentions.values()],
        _tag(quantization or dtype, None if base == run.manifest["model_name"] else base, settings.sidecar),
        limits,
        {"base": identity(base), "wrapper": identity(wrapper), "dtype": dtype, "quantization": quantization},
        environment("torch", "transformers") | {"device": str(next(pipeline.model.parameters()).device)},
    )


def _load_runtime(run: RunDir, settings: EvalSettings, base: str, limits: AnswerLimits) -> Loaded:
    from metadeploy._core import system_info
    from metadeploy.evaluation.engines.runtime_engine import RuntimeEngine
    from metadeploy.runtime import MetaLlama

    if Path(base).suffix.lower() != ".gguf":
        raise RunDirError(
            f"run.json '{run.run_json}': model_name is '{base}', expected a GGUF for --engine runtime (hint: name one "
            "with --base)"
        )
    wrapper = _wrapper(settings.sidecar or run.sidecar, "export")
    if settings.sidecar is None:
        run.refuse_stale_sidecar()
    sidecar = read_sidecar(wrapper)
    layers = sidecar.config.cross_attn_layers
    # no prefix cache, so that doubt does not depend on earlier questions or on other sequences, even in the last digits
    llm = MetaLlama(
        base,
        wrapper,
        n_parallel=_N_PARALLEL,
        n_threads=settings.threads,
        prefix_cache_mib=0,
        refusal_text=settings.refusal_text,
    )
    return Loaded(
        RuntimeEngine(llm, limits=limits),
        sidecar.config,
        {layer: float(sidecar.tensors[f"ca.{layer}.gate"][0]) for layer in layers},
        [sidecar.tensors[f"ca.{layer}.token_preference"].tolist() for layer in layers],
        _tag(Path(base).stem, None, settings.sidecar),
        limits,
        {"base": identity(base), "wrapper": identity(wrapper)},
        environment("gguf") | {"llama.cpp": system_info().strip()},
    )


def _tag(first: str, base: str | None, wrapper: Path | None) -> str:
    """Add the names of another base or wrapper, so that the run's own results are not replaced."""
    return "-".join([first, *(Path(path).stem for path in (base, wrapper) if path is not None)])


def _wrapper(path: Path, made_by: str) -> Path:
    if not path.exists():
        raise RunDirError(f"wrapper '{path}': does not exist (hint: run metadeploy {made_by} first)")
    return path


def identity(name: str | Path) -> dict[str, Any]:
    """Return what identifies a model or a file, ready for JSON.

    For a file, this is name, size and SHA-256; for a folder, name and a SHA-256 of its content; for a hub id, the id.
    """
    path = Path(name)
    if path.is_dir():
        return {"name": path.name, "sha256": content_digest(path)}
    if not path.is_file():
        return {"name": str(name)}
    return {"name": path.name, "size": path.stat().st_size, "sha256": sha256(path)}


def environment(*packages: str) -> dict[str, Any]:
    """Describe the software and machine: interpreter, platform, versions of our packages and of ``packages``."""
    return {
        "python": platform.python_version(),
        "platform": f"{platform.system()} {platform.machine()}",
        "cpu_count": os.cpu_count(),
        "metadeploy": own_version(),
        **{name: _installed_version(name) for name in ("numpy", "scipy", "scikit-learn", *packages)},
    }


def answer_environment(environment: Mapping[str, Any]) -> dict[str, Any]:
    """Return the part of an environment that answers and verdicts depend on.

    It uses the installed version of metadeploy, which is None in a source tree, so that edits there do not invalidate
    stored answers.
    """
    relevant = {name: value for name, value in environment.items() if name not in _IRRELEVANT_KEYS}
    return {**relevant, "metadeploy": _installed_version("metadeploy")}


def _installed_version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
