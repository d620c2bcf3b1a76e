"""Check early whether a wrapper fits a base model, and whether the architecture of the base supports the injection.

The runtime checks the loaded model again; this check gives an error before the slow work. The lists below are for the
pinned llama.cpp. An architecture supports the injection if the graph of its model calls ``build_cvec``, which calls the
block hook, at the end of every block (docs/architecture.md). A test derives the lists from the source again.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final

from metadeploy.errors import ModelLoadError, ModelMismatchError, faults_message
from metadeploy.sidecar.gguf_file import GGUFFile, read_gguf
from metadeploy.sidecar.keys import ARCH_DAIMON, ARCH_META_SPIDER
from metadeploy.sidecar.spec import WrapperConfig

__all__ = [
    "HOOKED_ARCHITECTURES",
    "UNHOOKED_ARCHITECTURES",
    "UNSUPPORTED_HOOKS",
    "BaseModel",
    "base_faults",
    "base_from_file",
    "check_base",
    "read_base",
]

#: Architectures of the pinned llama.cpp without the block hook.
UNHOOKED_ARCHITECTURES: Final = frozenset(
    """
    bert clip dflash eagle3 eurobert gemma4-assistant gptj hy_v4 jina-bert-v2 jina-bert-v3 modern-bert
    neo-bert nomic-bert nomic-bert-moe plamo2 qwen4exp wavtokenizer-dec
    """.split()  # noqa: SIM905 - a list of names would be 150 lines
)

#: Architectures of the pinned llama.cpp with the block hook.
HOOKED_ARCHITECTURES: Final = frozenset(
    """
    afmoe apertus arcee arctic arwkv7 baichuan bailingmoe bailingmoe2 bailingmoe3 bitnet bloom chameleon
    chatglm codeshell cogvlm cohere2 cohere2moe command-r dbrx deci deepseek deepseek2 deepseek2-ocr
    deepseek32 deepseek4 dots1 dots3note dream ernie4_5 ernie4_5-moe exaone exaone-moe exaone4 falcon
    falcon-h1 gemma gemma-embedding gemma2 gemma3 gemma3n gemma4 glm-dsa glm4 glm4moe glm5-next gpt-oss gpt2
    gptneox granite granite_swa granitehybrid granitemoe graniteswitch grok grovemoe hrm_text hunyuan-dense
    hunyuan-moe hunyuan_vl hy_v3 internlm2 jais jais2 jamba kimi-k3 kimi-linear laguna lfm2 lfm2moe llada
    llada-moe llama llama-embed llama4 maincoder mamba mamba2 maple mellum mimo2 minicpm minicpm3 minimax-01
    minimax-m2 minimax-m3 mistral3 mistral4 mpt muse-glimmer nanbeige nemotron nemotron_h nemotron_h_moe olmo
    olmo2 olmoe openelm orion paddleocr pangu-embedded phi2 phi3 phimoe plamo plamo3 plm pockettts qwen qwen2
    qwen2moe qwen2vl qwen3 qwen35 qwen35moe qwen3moe qwen3next qwen3tts qwen3vl qwen3vlmoe refact rnd1 rwkv6
    rwkv6qwen2 rwkv7 seed_oss smallthinker smollm3 spark2_5 stablelm starcoder starcoder2 step35 t5 t5encoder
    talkie xverse
    """.split()  # noqa: SIM905 - a list of names would be 150 lines
)

#: Architectures whose block hook is not at the output of every block, each with the reason. They are refused, too.
UNSUPPORTED_HOOKS: Final[dict[str, str]] = {
    "deepseek4": "keeps several residual streams",
    "gemma3n": "keeps several residual streams",
    "glm5-next": "keeps several residual streams",
    "nemotron_h": "has the place in its feed-forward blocks only, before the residual is added",
    "nemotron_h_moe": "has the place in its feed-forward blocks only, before the residual is added",
}


@dataclass(frozen=True, kw_only=True)
class BaseModel:
    """Metadata of a base GGUF.

    Attributes:
        path: the file.
        name: ``general.name``; None if it is missing.
        architecture: ``general.architecture``.
        hidden_dim: ``<arch>.embedding_length``.
        block_count: ``<arch>.block_count``, without blocks for multi-token prediction.
        context_length: ``<arch>.context_length``; None if it is missing.
        size: size of the file in bytes.
    """

    path: Path
    name: str | None
    architecture: str
    hidden_dim: int
    block_count: int
    context_length: int | None
    size: int

    @property
    def supports_injection(self) -> bool:
        """Whether the pinned llama.cpp has the block hook at the output of every block of this architecture."""
        return self.architecture in HOOKED_ARCHITECTURES and self.architecture not in UNSUPPORTED_HOOKS


def read_base(path: str | Path) -> BaseModel:
    """Read the metadata of a base.

    Args:
        path: the base's GGUF file; if it is split, the first part.

    Returns:
        The metadata.

    Raises:
        ModelLoadError: the file is not a well-formed GGUF file, or not a language model.
    """
    return base_from_file(read_gguf(path, role="base model"))


def base_from_file(file: GGUFFile) -> BaseModel:
    """Return the metadata of a base whose file is already parsed; see `read_base`."""
    values = {key: value.value for key, value in file.metadata.items()}
    architecture = values.get("general.architecture")
    subject = f"base model '{file.path}'"
    if not isinstance(architecture, str):
        raise ModelLoadError(f"{subject}: has no general.architecture, expected a language model")
    if architecture in (ARCH_META_SPIDER, ARCH_DAIMON):
        raise ModelLoadError(f"{subject}: is a sidecar, expected the base that it runs beside")

    def number(key: str) -> int | None:
        value = values.get(f"{architecture}.{key}")
        return value if isinstance(value, int) and not isinstance(value, bool) else None

    width, blocks = number("embedding_length"), number("block_count")
    if width is None or blocks is None:
        raise ModelLoadError(
            f"{subject}: of architecture '{architecture}' lacks embedding_length or block_count (not a language model?)"
        )
    name = values.get("general.name")
    return BaseModel(
        path=file.path,
        name=name if isinstance(name, str) else None,
        architecture=architecture,
        hidden_dim=width,
        block_count=blocks - (number("nextn_predict_layers") or 0),
        context_length=number("context_length"),
        size=file.size,
    )


def base_faults(base: BaseModel, config: WrapperConfig) -> list[str]:
    """Return the reasons why a wrapper does not fit a base, as phrases without a subject; empty if it fits."""
    faults = []
    if base.architecture in UNHOOKED_ARCHITECTURES:
        faults.append(f"has architecture '{base.architecture}', which llama.cpp gives no place to inject in")
    elif base.architecture in UNSUPPORTED_HOOKS:
        faults.append(f"has architecture '{base.architecture}', which {UNSUPPORTED_HOOKS[base.architecture]}")
    elif not base.supports_injection:
        faults.append(f"has architecture '{base.architecture}', which the pinned llama.cpp does not know")
    if base.hidden_dim != config.hidden_dim:
        faults.append(f"has width {base.hidden_dim}, the wrapper needs {config.hidden_dim} (wrong base model?)")
    if config.base_block_count is not None and base.block_count != config.base_block_count:
        faults.append(f"has {base.block_count} layers, the wrapper was trained on {config.base_block_count}")
    missing = sorted(
        {layer for layer in (*config.target_layers, *config.cross_attn_layers) if layer >= base.block_count}
    )
    if missing:
        faults.append(f"has layers 0 to {base.block_count - 1}, the wrapper needs {missing}")
    return faults


def check_base(path: str | Path, config: WrapperConfig) -> BaseModel:
    """Check that a wrapper fits a base.

    Args:
        path: the base's GGUF file.
        config: the wrapper.

    Returns:
        The metadata of the base.

    Raises:
        ModelLoadError: see `read_base`.
        ModelMismatchError: width, layers or architecture do not fit (the message lists all faults).
    """
    base = read_base(path)
    faults = base_faults(base, config)
    if faults:
        raise ModelMismatchError(faults_message(f"base model '{path}'", faults))
    return base
