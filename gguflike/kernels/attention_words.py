"""The argument words of attention, as byte offsets; attention.py says what they are."""

from __future__ import annotations

Q, TABLE, N_ROT, NEOX = range(0, 32, 8)
KEYS, KEY_SCALES, VALUES, VALUE_SCALES = range(32, 64, 8)
N_HEAD, N_HEAD_KV, HEAD_DIM, CONTEXT, HEADS, SCALE = range(64, 112, 8)
K, V = 112, 120
SPAN, OUT, CODES, SCALES, SUMS = range(128, 168, 8)  # of several tokens
PARTS = 128  # of one token
