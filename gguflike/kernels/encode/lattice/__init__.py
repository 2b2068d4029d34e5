"""Encoders of the types whose codes are points of a codebook of 4 or 8 coordinates: IQ1, IQ2 and IQ3.

Codebooks of IQ2 are cut from the lattice E8, hence the folder's name (spec/literature.md). Value = d * (2 k + 1) *
factor * sign * (coordinate of a point + delta), with one k per sub-block; the type says which signs and deltas there
are (``codec.Lattice``).

One super-block of 256 weights is encoded at a time; its octets or sub-blocks stand in the lanes (scratch.py has the
picture). For given points the squared error of a sub-block is a parabola in its scale, known from two sums. So the
search splits in two:

    1. points for a few candidate scales of every sub-block     find_points (block.py)
           by comparing all points of the codebook                  exhaustive.py, by half points (codebook.py)
           or by rounding and repairing what is not a point         repair.py, where nearly all roundings are points
    2. the best d, and for each sub-block the best candidate
       and k: all of them compete at every d tried              search_d, choose (scales.py)
    3. wrong signs moved to where they cost least; d refitted   search.py

    codec.py        the types and what their search tries; scratch.py: the memory that it works in
    bound.py        tells where the absmax rule's points need not be looked for
    fields.py       where the bits of a block go; search.py writes them

Words, besides those of the package above:

    candidate       a scale for each sub-block and the points found for it
    delta           what IQ1's types add to all coordinates of a point: one of two values
    gain            by how much points at a scale lower the squared error of zeros
    digit           a coordinate as an index of the codebook's levels
    octet           eight consecutive weights; signs are stored by octets
    packed point    the point's number in the codebook, above its digits, in an int32
    step            the scale that one unit of 2 k + 1 stands for
"""
