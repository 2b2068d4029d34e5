"""Ops that exist once per block type, made from the rows of kernels/table.py when one of them is compiled."""
