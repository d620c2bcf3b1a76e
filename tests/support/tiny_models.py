"""Seeded random tiny models: as torch modules, as Hugging Face folders and as F32 GGUF files.

The weights are drawn so that greedy text does not repeat itself and logits are well apart, as in trained models:
otherwise, comparing the arg-max of two implementations would prove little, or fail by chance.
"""

from __future__ import annotations

import math
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import (
    AutoTokenizer,
    Gemma3ForCausalLM,
    Gemma3TextConfig,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    Qwen3_5ForCausalLM,
    Qwen3_5TextConfig,
    Qwen3Config,
    Qwen3ForCausalLM,
)

#: Size of the SmolLM2 tokenizer. Models for GGUF have it because the conversion script supports it.
SMOLLM2_VOCAB_SIZE: Final = 49152

#: Size of ``byte_tokenizer``, which models in memory use.
BYTE_VOCAB_SIZE: Final = 258


@dataclass(frozen=True)
class TinyModel:
    """A tiny model on disk.

    Attributes:
        kind: a key of ``KINDS``.
        path_hf: folder with config, weights (F32) and tokenizer.
        path_gguf: the same weights as F32 GGUF.
        num_layers: decoder blocks.
        hidden_dim: width.
        vocab_size: rows of the embedding.
    """

    kind: str
    path_hf: Path
    path_gguf: Path
    num_layers: int
    hidden_dim: int
    vocab_size: int


def _llama(vocab_size: int) -> PreTrainedModel:
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=vocab_size,
            hidden_size=64,
            intermediate_size=160,
            num_hidden_layers=6,
            num_attention_heads=4,
            num_key_value_heads=2,
            max_position_embeddings=2048,
            rms_norm_eps=1e-5,
        )
    )


def _qwen3(vocab_size: int) -> PreTrainedModel:
    return Qwen3ForCausalLM(
        Qwen3Config(
            vocab_size=vocab_size,
            hidden_size=64,
            intermediate_size=160,
            num_hidden_layers=6,
            num_attention_heads=4,
            num_key_value_heads=2,
            head_dim=32,
            max_position_embeddings=2048,
        )
    )


def _qwen3_5(vocab_size: int) -> PreTrainedModel:
    return Qwen3_5ForCausalLM(
        Qwen3_5TextConfig(
            vocab_size=vocab_size,
            hidden_size=64,
            intermediate_size=160,
            num_hidden_layers=8,  # every fourth is full attention, the others gated DeltaNet
            num_attention_heads=4,
            num_key_value_heads=2,
            head_dim=64,
            linear_key_head_dim=32,
            linear_value_head_dim=32,
            linear_num_key_heads=2,
            linear_num_value_heads=4,
            max_position_embeddings=2048,
        )
    )


def _gemma3(vocab_size: int) -> PreTrainedModel:
    return Gemma3ForCausalLM(
        Gemma3TextConfig(
            vocab_size=vocab_size,
            hidden_size=64,
            intermediate_size=160,
            num_hidden_layers=6,
            num_attention_heads=4,
            num_key_value_heads=2,
            head_dim=32,
            query_pre_attn_scalar=32,
            sliding_window=16,
            max_position_embeddings=2048,
            pad_token_id=0,
            bos_token_id=1,
            eos_token_id=2,
        )
    )


KINDS: Final[dict[str, Callable[[int], PreTrainedModel]]] = {
    "llama": _llama,
    "qwen3": _qwen3,
    "qwen3_5": _qwen3_5,
    "gemma3": _gemma3,
}


def tiny_causal_lm(kind: str, *, vocab_size: int = BYTE_VOCAB_SIZE, seed: int = 0) -> PreTrainedModel:
    """Return a tiny model in memory, in evaluation mode."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = KINDS[kind](vocab_size)
        draw_weights(model)
    return model.eval()


#: Shows its variables in the text, so that tests can check them.
CHAT_TEMPLATE: Final = (
    "{% for message in messages %}<{{ message.role }}>{{ message.content }}</>{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
    "{% if enable_thinking is defined and not enable_thinking %}<think></think>{% endif %}"
)


def byte_tokenizer() -> PreTrainedTokenizerFast:
    """Return a tokenizer without a file: one token for each byte, BOS 256, EOS 257, and a chat template."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    backend = Tokenizer(models.BPE(vocab={char: i for i, char in enumerate(alphabet)}, merges=[]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens(["<bos>", "<eos>"])
    backend.post_processor = processors.TemplateProcessing(single="<bos> $A", special_tokens=[("<bos>", 256)])
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, bos_token="<bos>", eos_token="<eos>")
    tokenizer.chat_template = CHAT_TEMPLATE
    return tokenizer


def tiny_model(
    kind: str, cache_dir: Path, *, tokenizer_gguf: Path, llama_cpp: Path | None = None, seed: int = 0
) -> TinyModel:
    """Return a tiny model on disk, as a Hugging Face folder and as F32 GGUF; made once for each ``cache_dir``.

    Args:
        kind: a key of ``KINDS``.
        cache_dir: folder for both, about 50 MB.
        tokenizer_gguf: a SmolLM2 GGUF, whose tokenizer and chat template the model gets.
        llama_cpp: the llama.cpp tree with the conversion script; None: ``llama_cpp_tree``.
        seed: seed of the weights.
    """
    path_hf = cache_dir / f"{kind}-{seed}"
    path_gguf = cache_dir / f"{kind}-{seed}-f32.gguf"
    model = tiny_causal_lm(kind, vocab_size=SMOLLM2_VOCAB_SIZE, seed=seed)
    if not path_gguf.exists():
        model.save_pretrained(path_hf)
        tokenizer = AutoTokenizer.from_pretrained(str(tokenizer_gguf.parent), gguf_file=tokenizer_gguf.name)
        tokenizer.save_pretrained(path_hf)
        convert_to_gguf(path_hf, path_gguf, llama_cpp=llama_cpp or llama_cpp_tree(), no_mtp=kind == "qwen3_5")
    return TinyModel(
        kind=kind,
        path_hf=path_hf,
        path_gguf=path_gguf,
        num_layers=model.config.num_hidden_layers,
        hidden_dim=model.config.hidden_size,
        vocab_size=SMOLLM2_VOCAB_SIZE,
    )


def llama_cpp_tree() -> Path:
    """Return the llama.cpp tree: ``METADEPLOY_LLAMA_CPP`` if set, otherwise the vendored one.

    Raises:
        FileNotFoundError: it has not been unpacked.
    """
    default = Path(__file__).resolve().parents[2] / "vendor" / "llama.cpp"
    tree = Path(os.environ.get("METADEPLOY_LLAMA_CPP", default))
    if not (tree / "convert_hf_to_gguf.py").is_file():
        raise FileNotFoundError(f"no llama.cpp tree at {tree}: build the project, or set METADEPLOY_LLAMA_CPP")
    return tree


#: The script imports sentencepiece before it sees that a folder has no such tokenizer. An empty module is enough, after
#: transformers has checked whether the real one is installed.
_RUN_SCRIPT: Final = """
import os, runpy, sys, types
import transformers
sys.modules["sentencepiece"] = types.SimpleNamespace(SentencePieceProcessor=None)
del sys.argv[0]
sys.path.insert(0, os.path.dirname(sys.argv[0]))
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def convert_to_gguf(path_hf: Path, path_gguf: Path, *, llama_cpp: Path, no_mtp: bool = False) -> None:
    """Run llama.cpp's conversion script on a folder. The weights stay F32."""
    script = [sys.executable, "-c", _RUN_SCRIPT, str(llama_cpp / "convert_hf_to_gguf.py"), str(path_hf)]
    # the next run must not take an interrupted conversion for a model
    partial = path_gguf.with_suffix(".partial")
    command = [*script, "--outfile", str(partial), "--outtype", "f32", *(["--no-mtp"] if no_mtp else [])]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    if result.returncode:
        raise RuntimeError(f"conversion of {path_hf.name} failed:\n{result.stdout}\n{result.stderr}")
    partial.replace(path_gguf)


def draw_weights(model: PreTrainedModel) -> None:
    """Draw weights at scales with which the text depends on the whole context and logits spread by about 3.

    Blocks must outweigh the embedding in the residual stream; otherwise the model repeats its last token endlessly.
    """
    for name, parameter in model.named_parameters():
        if "norm" in name:
            parameter.data += 0.1 * torch.randn_like(parameter)
            if "post_feedforward_layernorm" in name:
                parameter.data += 3.0  # Gemma normalizes a block's output and scales up the embedding
        elif "embed_tokens" in name:
            parameter.data.normal_(std=1 / math.sqrt(parameter.shape[1]))
        elif parameter.ndim >= 2:
            fan_in = parameter[0].numel()
            parameter.data.normal_(std=(3 if "lm_head" in name else 1) / math.sqrt(fan_in))
