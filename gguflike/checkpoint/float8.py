"""8-bit floats as float32: a table of 256 values for each kind that safetensors names.

E4M3 and E5M2 are those of the OCP's 8-bit Floating Point Specification 1.0 (E4M3 has no infinities, so that its largest
exponent holds numbers), E8M0 is the scale of the OCP's Microscaling Formats 1.0. FNUZ is another maker's kind of the
former two: the bias is larger by 1, there are no infinities, and the code of -0 stands for NaN.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

#: Kind -> bits of the exponent, its bias, and whether it is FNUZ.
KINDS: Mapping[str, tuple[int, int, bool]] = {
    "F8_E4M3": (4, 7, False),
    "F8_E5M2": (5, 15, False),
    "F8_E4M3FNUZ": (4, 8, True),
    "F8_E5M2FNUZ": (5, 16, True),
    "F8_E8M0": (8, 127, False),
}


@functools.cache
def values(kind: str) -> npt.NDArray[np.float32]:
    """The values of the 256 codes, in order."""
    bits, bias, fnuz = KINDS[kind]
    codes = np.arange(256)
    if kind == "F8_E8M0":
        return _fixed(np.append(np.ldexp(1.0, codes[:255] - bias), np.nan))
    fraction_bits = 7 - bits
    exponent = codes >> fraction_bits & (1 << bits) - 1
    fraction = (codes & (1 << fraction_bits) - 1) / (1 << fraction_bits)
    normal = np.ldexp(1 + fraction, exponent - bias)
    made = np.where(codes < 128, 1, -1) * np.where(exponent > 0, normal, np.ldexp(fraction, 1 - bias))
    if fnuz:
        made[128] = np.nan
    elif kind == "F8_E4M3":
        made[[127, 255]] = np.nan
    else:
        special = exponent == (1 << bits) - 1
        made[special] = np.where(fraction[special] > 0, np.nan, np.copysign(np.inf, made[special]))
    return _fixed(made)


def _fixed(made: npt.NDArray[np.float64]) -> npt.NDArray[np.float32]:
    table = made.astype(np.float32)
    table.flags.writeable = False
    return table
