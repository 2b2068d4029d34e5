"""Kernels on quantized blocks. Other packages come in through ``dispatch`` and ``engine``, which load on first use.

**Map.** A room imports only rooms on lines above its own (`tests/test_house.py`), and each has a page of its own in its
``__init__.py``:

    engine/      how code is compiled, kept, scheduled and waited for
    vector/      sixteen lanes: one library of vectors for all that follow
    decode/      blocks to float32
    encode/      float32 to blocks; encode/lattice/ for the types with a codebook
    matmul/      products of matrices in blocks with activations
    attention/   attention over a cache of keys and values, rotary positions
    experts/     mixtures of experts: the choice of a token's experts, products with their matrices alone
    ops          what stands between the matrix products of most models: root-mean-square norms, silu
    embed        rows of an embedding that lies in blocks
    shares       what sampling needs of a whole vocabulary
    args         the argument words of these three: ops, embed and shares
    rows/        norms, activations, sums, scales and soft-caps in every form, for models that need more than ops
    rounding/    rounding under a Hessian: error feedback, coordinate descent
    recurrent/   convolutions, the gated delta rule and state-space models, with their states
    table        one row per block type: which kernels serve it, how its weights lie in memory
    by_type/     the ops that exist once per block type, made from the table's rows
    dispatch     the way in: decoder, encoder and products of a block type
    prepare      which kernels a job needs, so that they can be compiled together before it starts

**Two kinds of kernels.** *Ops* are what a running model calls, and what decodes and encodes: functions of addresses,
kept as object files and called without numba (engine/). Encoders with codebooks, and what rounds under a Hessian, are
functions of numpy arrays, which numba compiles on first use, and loads.

**How a function is compiled** says its decorator; each calls those above it:

    @operation   LLVM code for one thing on vectors or at addresses, in place wherever it is called (vector/lanes.py)
    @inner       a helper that only kernels call; @lean, without reference counts (engine/jit.py)
    @jit         a kernel that Python or an op calls: a decoder, an encoder of arrays
    @op          ``op(args, state, start, stop)``: the words at ``args`` by the names of an ``Args``, over some items

**One type from end to end.** To see how all of this meets, follow Q8_0, whose codes are plain bytes, then Q4_K:
its fields and formula (blocks/table.py), the decoder in numpy (blocks/), its row here (table.py), decoding
(decode/simple.py, kquants.py), encoding (encode/fixed.py, kaffine.py), its record (matmul/records.py) and how blocks
get there (scatter.py), and the products (integer.py, with tile.py for many tokens). All of it is written by type only
where types differ: table.py names the pieces, and by_type/ makes the ops.

**Words of the matrix products.** A vector gives every lane a row of the weight matrix, so no sum ever crosses lanes.

    row block   16 rows of a weight matrix, one per lane
    record      a row block by as many columns as a block of the file has (32 to 256), in one piece
    sub-block   16 or 32 columns with a scale (and a minimum) of their own; several share a float16 super-scale
    step        four consecutive columns: what one dot product instruction takes, 16 lanes by 4 bytes
    code        the integer stored for a weight; its *level* is what it stands for before the scale
    plane       p bits of every code, low bits first; 8 / p steps share a vector of 64 bytes at different bit positions
    lane        one row's share of a record

    a matrix (rows by columns)        one record of Q4_K: 16 rows by 256 columns, 2,368 bytes

              record 0  record 1      +-----------------------------------------------------+
             +---------+---------+--  | super-scales   16 lanes, float16                    |
    16 rows  |     row block 0   |    | super-minima   16 lanes, float16                    |
             +---------+---------+--  | scales         8 sub-blocks by 16 lanes, uint8      |
    16 rows  |     row block 1   |    | minima         8 sub-blocks by 16 lanes, uint8      |
             +---------+---------+--  | one plane of 4 bits: 32 vectors of 64 bytes         |
              256 columns each        |   vector 0:   lane 0       lane 1     ...  lane 15  |
                                      |             b0 b1 b2 b3  b0 b1 b2 b3                |
                                      |   byte b_i of a lane holds column i of step 0 in    |
                                      |   bits 0 to 3, and column i of step 8 in bits 4-7   |
                                      +-----------------------------------------------------+

The words of the encoders, of attention, of mixtures of experts and of recurrent states are in the pages of their rooms:
encode/, attention/, experts/ and recurrent/.
"""
