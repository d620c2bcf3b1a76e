"""Write an untrained checkpoint with the shape of the published Doubter for Qwen3.5-4B, and export it.

    python benchmarks/synthetic_doubter.py [--folder FOLDER] [--shape qwen3.5-4b|tiny] [--inject-from prompt]

The checkpoint takes 112 MiB, in the types of a trained one (encoder in F32, cross-attention in BF16). `metadeploy
export` makes a sidecar of 168 MB from it. Both go to metadeploy's cache folder by default. With the base of
`synthetic_base.py`, the sidecar costs as much as a trained one.
"""

from __future__ import annotations

import argparse
import math
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from synthetic_base import SHAPES as BASES

from metadeploy._files import replacing, write_json
from metadeploy.demo.assets import cache_dir
from metadeploy.sidecar.layout import dims_of, expected_tensors
from metadeploy.sidecar.spec import InjectFrom, WrapperConfig


def _config(base: str, layers: range, width: int) -> WrapperConfig:
    return WrapperConfig(
        encoder_type="selective",
        hidden_dim=BASES[base].n_embd,
        encoder_dim=width,
        bottleneck_dim=width,
        num_cognitive_tokens=len(layers),
        ca_num_heads=4,
        enc_num_heads=8,
        target_layers=tuple(layers),
        cross_attn_layers=tuple(layers),
        base_block_count=BASES[base].n_block,
    )


#: The wrappers, by the shape of their base.
SHAPES: Final = {
    "qwen3.5-4b": _config("qwen3.5-4b", range(21, 32), 256),
    "tiny": _config("tiny", range(5, 8), 64),
}


def draw(config: WrapperConfig, *, seed: int = 0) -> dict[str, NDArray[np.float32]]:
    """Return random tensors of a wrapper, by sidecar name; small gates keep the injection stable."""
    rng = np.random.default_rng(seed)

    def tensor(name: str, dims: tuple[int, ...]) -> NDArray[np.float32]:
        if name.endswith(".gate") or ".layer_gates." in name:
            return np.full(dims, 0.1, np.float32)
        if len(dims) == 1:
            return np.full(dims, 1.0 if name.endswith("weight") else 0.0, np.float32)
        values = rng.standard_normal(dims, dtype=np.float32)
        values /= math.sqrt(dims[-1])
        return values

    return {name: tensor(name, dims) for name, dims in expected_tensors(dims_of(config)).items()}


def write_checkpoint(folder: Path, config: WrapperConfig) -> Path:
    """Write a run directory as training does: ``doubter_checkpoint.pt`` and ``run.json``."""
    import torch

    tensors = {name: torch.from_numpy(values) for name, values in draw(config).items()}
    ca_state: dict[int, dict[str, Any]] = {layer: {} for layer in config.cross_attn_layers}
    for name, tensor in tensors.items():
        if name.startswith("ca."):
            _, layer, key = name.split(".", 2)
            ca_state[int(layer)][key] = tensor.bfloat16()
    layers = {"target_layers": list(config.target_layers), "cross_attn_layers": list(config.cross_attn_layers)}
    settings = {
        "encoder_type": config.encoder_type,
        "encoder_bottleneck": config.encoder_dim,
        "ca_bottleneck_dim": config.bottleneck_dim,
        "ca_num_heads": config.ca_num_heads,
        "inject_from": config.inject_from,
    }
    folder.mkdir(parents=True, exist_ok=True)
    checkpoint = {
        "format_version": "1.1",
        "config": settings,
        "encoder_state": {name[4:]: tensor for name, tensor in tensors.items() if name.startswith("enc.")},
        "ca_state": ca_state,
        **layers,
    }
    path = folder / "doubter_checkpoint.pt"
    with replacing(path) as temporary:
        torch.save(checkpoint, temporary)
    manifest = {**layers, "hidden_dim": config.hidden_dim, "num_layers": config.base_block_count}
    write_json(folder / "run.json", manifest)
    return path


def synthetic_doubter(folder: Path, shape: str, inject_from: InjectFrom = "prompt") -> Path:
    """Return the sidecar in a folder, beside its checkpoint; write both if they do not exist."""
    from metadeploy.export import export

    run = folder / f"synthetic-doubter-{shape}-{inject_from}"
    sidecar = run / "doubter_sidecar.gguf"
    if not sidecar.exists():
        export(write_checkpoint(run, replace(SHAPES[shape], inject_from=inject_from)))
    return sidecar


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=cache_dir(), help="output folder (default: %(default)s)")
    parser.add_argument("--shape", choices=SHAPES, default="qwen3.5-4b")
    parser.add_argument("--inject-from", choices=("prompt", "last_prompt_token"), default="prompt")
    arguments = parser.parse_args()
    print(synthetic_doubter(arguments.folder, arguments.shape, arguments.inject_from))


if __name__ == "__main__":
    main()
