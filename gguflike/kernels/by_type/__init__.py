"""Ops that exist once per block type, made from the rows of kernels/table.py when one of them is compiled.

decode    blocks to float32
encode    float32 to blocks
embed     rows of an embedding
repack    the file's blocks to records
integer   products of records with one token, and with several
refine    products of records with activations of which some blocks are refined
floating  products of floats, on the file's rows
"""
