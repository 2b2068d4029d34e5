"""Names of the types in kernels' signatures: what a value is, for readers.

Numba infers types by itself, and vectors exist only in compiled code, so a type checker sees ``Any`` for each of them.
Imports neither numba nor llvmlite.
"""

from __future__ import annotations

from typing import Any, TypeAlias

# In kernels: vectors of 64 bytes, one value per lane.
F32x16: TypeAlias = Any  # sixteen float32
I32x16: TypeAlias = Any  # sixteen int32
I16x32: TypeAlias = Any  # thirty-two int16
Mask: TypeAlias = Any  # sixteen booleans, as comparisons of two vectors give them
# In kernels: where something begins in memory, in bytes. It need not be aligned.
Address: TypeAlias = int
# In functions that emit LLVM code: a value of the code that is emitted (llvmlite's ``ir.Value``).
Value: TypeAlias = Any
