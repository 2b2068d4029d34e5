"""Importance files, written by the gguf package and by hand."""

from __future__ import annotations

import struct
from pathlib import Path

import gguf
import numpy as np


def imatrix_gguf(path: Path, sums: dict[str, np.ndarray], counts: dict[str, np.ndarray]) -> Path:
    """A file of importance as llama-imatrix writes it today. ``sums`` have shape (matrices, columns)."""
    writer = gguf.GGUFWriter(path, "")
    writer.add_type("imatrix")
    for name, values in sums.items():
        writer.add_tensor(name + ".in_sum2", values.astype(np.float32))
        if name in counts:
            writer.add_tensor(name + ".counts", counts[name].astype(np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def imatrix_dat(path: Path, entries: dict[str, tuple[int, np.ndarray]]) -> Path:
    """A file of importance in llama-imatrix's old format. ``entries``: (calls, sums of squares) by tensor."""
    data = struct.pack("<i", len(entries))
    for name, (calls, values) in entries.items():
        data += struct.pack("<i", len(name)) + name.encode() + struct.pack("<ii", calls, len(values))
        data += values.astype("<f4").tobytes()
    path.write_bytes(data + struct.pack("<i", 7) + struct.pack("<i", 4) + b"text")
    return path
