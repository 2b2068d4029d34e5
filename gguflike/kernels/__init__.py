"""Numba kernels on quantized blocks. Only ``dispatch`` is imported by other packages; it loads the rest on first use."""
