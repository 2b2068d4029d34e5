"""Rounding under a Hessian: E = weights less their rounded values, of cost tr(E H E^T), row by row.

    products   rows times a matrix; the cost of rows
    factor     H = B D B^T with B unit upper triangular; solving with it
    feedback   error feedback: columns that come later make up for the errors of those before
    rows       what descent knows of rows, their numbers and G = E H; coordinate descent of codes
    local      a few columns when all others stay: sixteen candidates for their scales at once
    refine     the choice of super-scales, integer scales and minima, with their codes
    tree       the nearest points of a codebook to eight weights in any metric, exactly
    octets     error feedback and descent with codebooks, by sub-blocks
    nearest    the nearest points of a codebook to weights as they are
    storage    what blocks with codebooks store, as arrays and as bytes

Every sum here has a fixed order, and none is a reduction that the compiler may reorder: rows are divided among threads,
and vectors run over columns or over candidates, so that neither the number of threads nor the width of vectors changes
a bit.
"""
