"""Small operations on GGUF files that tests need."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Final

import gguf
import numpy as np
from tokenizers import pre_tokenizers


def dequantize_gguf(src: Path, dst: Path, *, chat_template: str | None = None) -> None:
    """Write an F32 copy of a GGUF. All metadata except the file type stays.

    With it, PyTorch and llama.cpp compute with exactly the same weights, whatever the type of the original.

    Args:
        src: any GGUF whose tensor types gguf-py can dequantize.
        dst: the copy; written completely or not at all.
        chat_template: template for a model that has none.
    """
    reader = gguf.GGUFReader(src)
    partial = dst.with_suffix(".partial")
    writer = _writer_with_keys_of(reader, partial, without=("general.file_type",))
    writer.add_file_type(gguf.LlamaFileType.ALL_F32)
    if chat_template is not None:
        writer.add_chat_template(chat_template)
    for tensor in reader.tensors:
        shape = [int(size) for size in reversed(tensor.shape)]
        n_bytes = 4 * int(np.prod(shape))
        writer.add_tensor_info(tensor.name, shape, np.dtype(np.float32), n_bytes)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    for tensor in reader.tensors:
        writer.write_tensor_data(gguf.dequantize(tensor.data, tensor.tensor_type).astype(np.float32, copy=False))
    writer.close()
    partial.replace(dst)


def _writer_with_keys_of(reader: gguf.GGUFReader, path: Path, *, without: tuple[str, ...]) -> gguf.GGUFWriter:
    """Return a writer with a file's metadata, except for keys with these prefixes."""
    writer = gguf.GGUFWriter(path, arch=reader.fields["general.architecture"].contents())
    for field in reader.fields.values():
        # the writer adds its own header fields and architecture
        if field.name.startswith(("GGUF.", "general.architecture", *without)):
            continue
        sub_type = field.types[-1] if field.types[0] == gguf.GGUFValueType.ARRAY else None
        writer.add_key_value(field.name, field.contents(), field.types[0], sub_type=sub_type)
    return writer


def _write_with_tensors_of(reader: gguf.GGUFReader, writer: gguf.GGUFWriter) -> None:
    """Write a file with the metadata of the writer and the unchanged tensors of another file."""
    for tensor in reader.tensors:
        writer.add_tensor(tensor.name, tensor.data, raw_dtype=tensor.tensor_type)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def add_vocabulary(src: Path, dst: Path) -> None:
    """Write a copy of a GGUF with the same tensors and a tokenizer of single bytes.

    Args:
        src: a model with ``TINY_VOCAB_SIZE`` embeddings.
        dst: the copy.
    """
    reader = gguf.GGUFReader(src)
    writer = _writer_with_keys_of(reader, dst, without=("tokenizer.",))
    add_byte_vocabulary(writer)
    _write_with_tensors_of(reader, writer)


def set_add_bos(src: Path, dst: Path, adds: bool) -> None:
    """Write a copy of a GGUF whose tokenizer adds BOS to every text, or to none."""
    reader = gguf.GGUFReader(src)
    writer = _writer_with_keys_of(reader, dst, without=("tokenizer.ggml.add_bos_token",))
    writer.add_add_bos_token(adds)
    _write_with_tensors_of(reader, writer)


def with_chat_template(src: Path, dst: Path, template: str) -> None:
    """Write a copy of a GGUF with another chat template and the same tensors.

    Args:
        src: a model.
        dst: the copy.
        template: its text.
    """
    reader = gguf.GGUFReader(src)
    writer = _writer_with_keys_of(reader, dst, without=("tokenizer.chat_template",))
    writer.add_chat_template(template)
    _write_with_tensors_of(reader, writer)


#: 256 bytes, one merge, BOS and EOS
TINY_VOCAB_SIZE: Final = 259


def add_byte_vocabulary(writer: gguf.GGUFWriter) -> None:
    """Add a tokenizer of single bytes and a chat template that adds nothing."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    first, second = alphabet[:2]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("default")
    writer.add_token_list([*alphabet, first + second, "<bos>", "<eos>"])  # readers expect at least one merge
    writer.add_token_types([gguf.TokenType.NORMAL] * 257 + [gguf.TokenType.CONTROL] * 2)
    writer.add_token_merges([f"{first} {second}"])
    writer.add_bos_token_id(257)
    writer.add_eos_token_id(258)
    writer.add_chat_template("{% for message in messages %}{{ message.content }}{% endfor %}")


def write_tiny_gguf(
    path: Path,
    *,
    seed: int = 0,
    n_ctx: int = 256,
    vocabulary: bool = True,
    sampling: Mapping[str, float | str] | None = None,
) -> None:
    """Write a llama of 3 blocks and width 32 with Q8_0 weights and a tokenizer of single bytes, 150 kB in all.

    Args:
        path: the file.
        seed: seed of the weights.
        n_ctx: the training context that its metadata states.
        vocabulary: False writes a model without a tokenizer.
        sampling: recommended sampling settings, by the name after ``general.sampling.``.
    """
    n_layers, width, ffn = 3, 32, 64
    writer = gguf.GGUFWriter(path, arch="llama")
    writer.add_name("tiny")
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_Q8_0)
    writer.add_context_length(n_ctx)
    writer.add_embedding_length(width)
    writer.add_block_count(n_layers)
    writer.add_feed_forward_length(ffn)
    writer.add_head_count(2)
    writer.add_head_count_kv(1)
    writer.add_rope_dimension_count(width // 2)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_vocab_size(TINY_VOCAB_SIZE)
    if vocabulary:
        add_byte_vocabulary(writer)
    else:
        writer.add_tokenizer_model("no_vocab")
    for name, value in (sampling or {}).items():
        (writer.add_string if isinstance(value, str) else writer.add_float32)(f"general.sampling.{name}", value)
    rng = np.random.default_rng(seed)

    def matrix(name: str, rows: int, columns: int) -> None:
        weights = rng.normal(size=(rows, columns)).astype(np.float32) / np.float32(np.sqrt(columns))
        quantized = gguf.quantize(weights, gguf.GGMLQuantizationType.Q8_0)
        writer.add_tensor(name, quantized, raw_dtype=gguf.GGMLQuantizationType.Q8_0)

    matrix("token_embd.weight", TINY_VOCAB_SIZE, width)
    matrix("output.weight", TINY_VOCAB_SIZE, width)
    writer.add_tensor("output_norm.weight", np.ones(width, dtype=np.float32))
    for i in range(n_layers):
        for norm in ("attn_norm", "ffn_norm"):
            writer.add_tensor(f"blk.{i}.{norm}.weight", np.ones(width, dtype=np.float32))
        for name, rows, columns in (
            ("attn_q", width, width),
            ("attn_k", width // 2, width),
            ("attn_v", width // 2, width),
            ("attn_output", width, width),
            ("ffn_gate", ffn, width),
            ("ffn_up", ffn, width),
            ("ffn_down", width, ffn),
        ):
            matrix(f"blk.{i}.{name}.weight", rows, columns)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
