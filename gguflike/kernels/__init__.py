"""Kernels on quantized blocks. Other packages come in through ``dispatch`` and ``native``, which load on first use."""
