"""Encoders: float32 weights to the blocks of each type, of least squared error. kernels/table.py names one per type.

Blocks with scalar levels are encoded sixteen at a time, one block per lane of a vector::

    x float32 (rows, columns)                        out uint8 (rows, row bytes)
        |  driver.load_blocks, load_importance           ^  driver.write_blocks
        v                                                |  as a Packing says (packing.py)
    tile: row j is weight j of sixteen blocks  -->  symbols: row i is number i that a block stores
    importance: row j is its importance, or None         (codes, integer scales, bits of float16 scales)
                                               codec

A codec is a NamedTuple of settings and a function; files are ordered by what a block stores besides its codes:

    plain.py        nothing: F32, F16, BF16, F64 and the integers, one value at a time
    scale.py        a float16 scale: Q2_0, IQ4_NL, and with importance Q4_0, Q5_0, Q8_0, Q8_1
    affine.py       a float16 scale and minimum, with importance: Q4_1, Q5_1
    fixed.py        these six without importance, searched in 16-bit fixed point (pairs.py)
    ternary.py      a float16 scale, two or three levels, by exact optimum: Q1_0, TQ1_0, TQ2_0
    float4.py       levels that are 4-bit floats, scales that are small floats: MXFP4, NVFP4
    q8k.py          a float32 scale and sums of codes: Q8_K
    kscale.py       super-blocks of integer scales: Q3_K, Q6_K, IQ4_XS
    kaffine.py      super-blocks of integer scales and minimums: Q2_K, Q4_K, Q5_K
    lattice/        super-blocks of points of a codebook: IQ1, IQ2 and IQ3 types

    rounding.py     nearest levels, float16 scales, importance; leastsquares.py: lines fitted to codes
    driver.py       the loop that all codecs but those of lattice/ share; tiles.py: names of types

Words:

    absmax          the plain method: the scale comes from the largest magnitude, codes by rounding to nearest; byte for
                    byte what the gguf package makes where it encodes the type. "search", the other method, takes it
                    where it finds nothing better.
    batch           the sixteen blocks in the lanes
    code            the integer stored for a weight; its *level* is what it stands for before the scale
    d, m, dmin      scales and minimums as stored, the names of ggml's fields
    explained       by how much codes lower sum w x^2, the squared error of zeros
    extreme value   the value of largest magnitude, with its sign
    importance, w   how much the squared error of a column counts: sum w (x - decoded)^2 is minimized
    moments         sums over the nearest codes q: xq = sum w x q, qq = sum w q^2, sq = sum w q
    sub-block       16 or 32 weights of a super-block (256) with an integer scale of their own
    symbol          an integer that a block stores
    target          a level to which a candidate scale maps the extreme value
    tile            a flat array of vectors, the rows

The searches rest on one fact: for given codes the best scale is a least-squares problem with a closed form, and for a
given scale the best codes are the nearest. Candidates for the scale are compared after their own fit, then codes and
scale alternate (Lloyd 1982), the scales are rounded as they are stored, and what is stored decides.
"""
