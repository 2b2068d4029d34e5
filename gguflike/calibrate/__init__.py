"""What a model's matrices multiply when it reads text, and what is made of that when they are quantized.

    folds        scales that can move from one tensor to another without changing what a model computes
    scaling      how much to fold: AWQ, SmoothQuant
    statistics   what is known of the inputs of a matrix
    rounding     a matrix to the blocks of a type under these statistics
    objective    what rounding minimizes: the Hessian made ready, and the target of a matrix
    grids        types whose levels are scalars, as numbers and as bytes
    uniform      rounding to these types: error feedback and descent

All of it works on parts (`reference`), arrays and block types. It knows no file format, no checkpoint and no family.
"""
