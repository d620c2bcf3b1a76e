"""The run directory: one folder and one run.json that every step of a run reads and writes.

RUN/
run.json                    the manifest: the framework's keys, and ours
collect/{train,val,test}.jsonl and .safetensors      the base's own answers and activations
train/                      training curves; during a training also its state and cache
doubter_checkpoint.pt       the trained wrapper
doubter_sidecar.gguf        the wrapper for the runtime, after `metadeploy export`
eval/                       results, samples and plots
README.md                   the model card
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from metadeploy._files import content_digest, sha256, write_json
from metadeploy._types import SPLITS
from metadeploy.checkpoint.run_json import read_run_json
from metadeploy.errors import RunDirError
from metadeploy.sidecar import read_sidecar

__all__ = ["SPLITS", "RunDir", "base_digest", "training_fingerprint"]

#: Entries that `train` writes into run.json and that do not affect the learned weights.
_INCIDENTAL: Final = frozenset(
    {
        "device",
        "keep_cache",
        "encoder_dtype",
        "best_epoch",
        "epochs_done",
        "interrupted",
        "point",
        "val",
        "fingerprint",
    }
)


class RunDir:
    """A run directory and its manifest.

    Attributes:
        path: the folder.
        manifest: the content of run.json.
    """

    def __init__(self, path: str | os.PathLike[str], *, create: bool = False) -> None:
        """Open a run directory.

        Args:
            path: the folder.
            create: create the folder if it is missing; otherwise it must have a run.json.

        Raises:
            RunDirError: run.json is missing.
            RunJSONError: run.json is not a JSON object, or has a value of the wrong type.
        """
        self.path = Path(path)
        self.manifest: dict[str, Any] = {}
        if create:
            self.path.mkdir(parents=True, exist_ok=True)
        if self.run_json.exists():
            self.manifest = dict(read_run_json(self.run_json).manifest)
        elif not create:
            raise RunDirError(
                f"run directory '{self.path}': has no run.json, expected one (hint: start with metadeploy collect)"
            )

    @property
    def run_json(self) -> Path:
        """File of the manifest."""
        return self.path / "run.json"

    @property
    def checkpoint(self) -> Path:
        """File of the trained wrapper."""
        return self.path / "doubter_checkpoint.pt"

    @property
    def sidecar(self) -> Path:
        """File of the wrapper for the runtime."""
        return self.path / "doubter_sidecar.gguf"

    @property
    def collect(self) -> Path:
        """Folder of the data that `metadeploy collect` writes."""
        return self.path / "collect"

    @property
    def train(self) -> Path:
        """Folder of the files that `metadeploy train` writes besides the checkpoint."""
        return self.path / "train"

    @property
    def eval(self) -> Path:
        """Folder of results, samples and plots."""
        return self.path / "eval"

    def update(self, values: Mapping[str, Any]) -> None:
        """Set keys of the manifest (None removes one) and write it."""
        for key, value in values.items():
            self.manifest.pop(key, None)  # so that updated keys move to the end
            if value is not None:
                self.manifest[key] = value
        write_json(self.run_json, self.manifest, allow_nan=True)

    def require(self, *keys: str, made_by: str) -> None:
        """Refuse to continue without keys that an earlier step writes.

        Raises:
            RunDirError: a key is missing; the message names the command that writes it.
        """
        missing = [key for key in keys if key not in self.manifest]
        if missing:
            raise RunDirError(
                f"run.json '{self.run_json}': lacks {', '.join(missing)} (hint: run metadeploy {made_by} first)"
            )

    def refuse_stale_checkpoint(self) -> None:
        """Refuse a wrapper that was trained before the questions were collected again.

        There is no check if run.json does not record the training data, as in the framework's run.json.

        Raises:
            RunDirError: it was trained on other questions, or on these with other collect settings.
        """
        trained, collected = self.manifest.get("train") or {}, self.manifest.get("collect")
        recorded = trained.get("fingerprint")
        if recorded is None or collected is None or recorded == training_fingerprint(trained, collected):
            return
        raise RunDirError(
            f"run directory '{self.path}': its Doubter was trained on other questions than the collected ones, or with "
            "other collect settings, expected the same: test questions may have been training questions (hint: "
            "metadeploy train --restart trains it on these)"
        )

    def refuse_other_base(self) -> None:
        """Refuse to continue if the base has changed since the questions were collected.

        There is no check for a hub id, for a missing base, or if run.json has no digest.

        Raises:
            RunDirError: the content of the base has changed.
        """
        recorded = (self.manifest.get("collect") or {}).get("base_sha256")
        current = base_digest(self.manifest["model_name"]) if recorded is not None else None
        if current is not None and current != recorded:
            raise RunDirError(
                f"run directory '{self.path}': the content of its base '{self.manifest['model_name']}' has changed "
                "since the questions were collected, expected the same (hint: restore it, or metadeploy collect "
                "--restart)"
            )

    def refuse_stale_sidecar(self) -> None:
        """Refuse a sidecar that was exported before the checkpoint was trained or calibrated again.

        Raises:
            RunDirError: it was exported from another checkpoint than the current one.
            SidecarError: it cannot be read.
        """
        if not (self.sidecar.exists() and self.checkpoint.exists()):
            return
        exported_from = read_sidecar(self.sidecar).config.checkpoint_sha256
        if exported_from is not None and exported_from != sha256(self.checkpoint):
            raise RunDirError(
                f"sidecar '{self.sidecar}': was exported from another checkpoint than the current "
                f"'{self.checkpoint.name}', expected an export of this one (hint: run metadeploy export --force)"
            )


def base_digest(name: str) -> str | None:
    """Return the SHA-256 of a base that is a file or a folder; None for a hub id."""
    return content_digest(Path(name)) if Path(name).exists() else None


def training_fingerprint(trained: Mapping[str, Any], collected: Mapping[str, Any]) -> str:
    """Return a fingerprint that is equal for equal trainings, on any device and with any calibration.

    Args:
        trained: settings of a training as a JSON object, or the ``train`` entry of run.json.
        collected: the ``collect`` entry of run.json.

    Returns:
        A hex digest.
    """
    content = {key: value for key, value in trained.items() if key not in _INCIDENTAL} | {"collect": collected}
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
