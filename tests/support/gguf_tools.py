"""Small operations on GGUF files that tests need."""

from __future__ import annotations

from pathlib import Path

import gguf
import numpy as np


def dequantise_gguf(src: Path, dst: Path) -> None:
    """Write an F32 copy of a GGUF; all metadata but the file type is kept.

    With it PyTorch and llama.cpp compute with the very same weights, whatever the type of the original.

    Args:
        src: any GGUF whose tensor types gguf-py can dequantise.
        dst: the copy; written whole or not at all.
    """
    reader = gguf.GGUFReader(src)
    architecture = reader.fields["general.architecture"].contents()
    partial = dst.with_suffix(".partial")
    writer = gguf.GGUFWriter(partial, arch=architecture)
    for field in reader.fields.values():
        # the writer makes its own header fields and architecture
        if field.name.startswith("GGUF.") or field.name in ("general.architecture", "general.file_type"):
            continue
        sub_type = field.types[-1] if field.types[0] == gguf.GGUFValueType.ARRAY else None
        writer.add_key_value(field.name, field.contents(), field.types[0], sub_type=sub_type)
    writer.add_file_type(gguf.LlamaFileType.ALL_F32)
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
