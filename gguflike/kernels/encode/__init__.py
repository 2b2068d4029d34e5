"""Encoders, one module per family of block types; kernels/table.py says which encoder serves which type."""
