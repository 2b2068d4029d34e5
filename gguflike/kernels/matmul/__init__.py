"""Matrix products on quantized blocks and on floats: repacked weights, activations in int8 or float32.

    records   how weights lie in memory for the products, a format for each block type; ``LinearPlan``
    repack    blocks of a file to records
    scatter   what repacking does with the fields of each block type
    reader    records as vectors
    integer   matvec and matmul on records, by int8 activations
    panels    what the blocked matmul reads of tokens
    tile      the inner kernel of matmul on records
    direct    products of records by one token or two, in registers
    few       the loops around the inner kernel for a few tokens
    refine    what blocks of activations add that are rounded twice
    floating  matvec and matmul on F32, F16 and BF16
    each      floating-point weights by several tokens, each as if there were no other
    output    bias, residual, and rows of results
    linear    ``tensor.linear(x)``
    limits    ops that only read, or only multiply
    args      the argument words of this folder's ops

*matvec* computes one token, a row block (16 rows) at a time; *matmul* any number, a *unit* (two row blocks) at a time.
Of matmul on records there are three forms, by the number of tokens: two are multiplied as one is (direct); a few are
prepared for all columns, so that weights are read as they lie (few); many meet a chunk of columns of some units after
the other (integer). All round alike, so that a token's result does not depend on how many there are.
"""
