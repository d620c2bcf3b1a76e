"""Load a base model and its tokenizer with transformers."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import torch

from metadeploy.errors import MissingDependencyError, ModelLoadError
from metadeploy.reference.config import MetaSpiderConfig
from metadeploy.sidecar.base_model import read_base


def load_base(config: MetaSpiderConfig) -> tuple[Any, Any]:
    """Load the base model and the tokenizer that ``config`` names.

    Args:
        config: model name, device, dtype and quantization.

    Returns:
        A transformers model, on its device and in evaluation mode, and its tokenizer.

    Raises:
        ModelLoadError: the model or device does not exist, or the architecture is not supported.
        MissingDependencyError: a package is not installed: transformers, for quantization bitsandbytes, or for
            quantization and GGUF accelerate.
    """
    transformers = _transformers()
    device = _device(config.device)
    source, options = _source(config.model_name)
    load_options: dict[str, Any] = dict(options)
    if "gguf_file" in options:
        _require("accelerate", what=f"base model {config.model_name!r}: a GGUF file", extra="reference")
        # dequantized weights can have any dtype
        load_options["dtype"] = torch.float32 if config.dtype == "auto" else getattr(torch, config.dtype)
    else:
        load_options["dtype"] = "auto" if config.dtype == "auto" else getattr(torch, config.dtype)
    if config.quantization is not None:
        load_options["quantization_config"] = _quantization(config, transformers)
        load_options["device_map"] = {"": device}
    try:
        base_config = transformers.AutoConfig.from_pretrained(source, **options)
        if getattr(base_config, "is_encoder_decoder", False):
            raise ModelLoadError(
                f"base model {config.model_name!r}: is an encoder-decoder, expected a decoder-only causal LM"
            )
        # most multimodal models have a text-only class for causal LM; otherwise load the whole model
        causal = type(base_config) in transformers.MODEL_FOR_CAUSAL_LM_MAPPING
        auto_class = transformers.AutoModelForCausalLM if causal else transformers.AutoModelForImageTextToText
        model = auto_class.from_pretrained(source, config=base_config, **load_options)
        tokenizer = transformers.AutoTokenizer.from_pretrained(source, **options)
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        raise ModelLoadError(
            f"base model {config.model_name!r}: transformers cannot load it, expected a causal LM as a hub id, a "
            f"folder or a GGUF file ({_first_line(error)})"
        ) from error
    if config.quantization is None:
        model = model.to(device)
    return model.eval(), tokenizer


def _transformers() -> Any:
    try:
        import transformers
    except ImportError as error:
        raise MissingDependencyError(
            "metadeploy.reference: transformers is not installed, needed to load a base model "
            "(pip install 'metadeploy[reference]')"
        ) from error
    return transformers


def _source(model_name: str) -> tuple[str, dict[str, str]]:
    """Return the source and the options with which transformers loads the model."""
    path = Path(model_name)
    if path.suffix.lower() == ".gguf":
        read_base(path)  # raises a precise error if the file is not a valid GGUF of a language model
        return str(path.parent), {"gguf_file": path.name}
    return model_name, {}


def _device(name: str) -> torch.device:
    if name == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise ModelLoadError(
            f"MetaSpiderConfig: device is {name!r}, expected one that this PyTorch can use, such as 'cpu' "
            f"({_first_line(error)})"
        ) from error
    return device


def _quantization(config: MetaSpiderConfig, transformers: Any) -> Any:
    subject = f"MetaSpiderConfig: quantization {config.quantization!r}"
    _require("bitsandbytes", "accelerate", what=subject, extra="quantized")
    if config.quantization == "int8":
        return transformers.BitsAndBytesConfig(load_in_8bit=True)
    compute_dtype = torch.bfloat16 if config.dtype == "auto" else getattr(torch, config.dtype)
    return transformers.BitsAndBytesConfig(
        load_in_4bit=True, bnb_4bit_quant_type=config.quantization, bnb_4bit_compute_dtype=compute_dtype
    )


def _require(*packages: str, what: str, extra: str) -> None:
    missing = [name for name in packages if importlib.util.find_spec(name) is None]
    if missing:
        raise MissingDependencyError(
            f"{what} needs {' and '.join(missing)}, not installed (pip install 'metadeploy[{extra}]')"
        )


def _first_line(error: Exception) -> str:
    return str(error).strip().split("\n", 1)[0]
