"""What a model's matrices multiply when it reads text, and what is made of that when they are quantized.

    folds        scales that can move from one tensor to another without changing what a model computes
    scaling      how much to fold: AWQ, SmoothQuant
    ranges       fixed ranges of activations: observers, mappings to integers, redistribution between channels
    allocate     which type each tensor gets in a file of so many bytes
    rounding     a matrix to the blocks of a type under these statistics
    objective    what rounding minimizes: the Hessian made ready, and the target of a matrix
    grids        types whose levels are scalars, as numbers and as bytes
    uniform      rounding to these types: error feedback and descent
    outputs      descent where errors of one row may undo another's: loss-aware Hessians of two factors
    codebook     rounding to types whose codes are points of a codebook: the same, by vectors
    statistics   second moments of a matrix's inputs, merging, experts that few tokens reach
    sums         how they are summed up
    store        statistics in a folder, to be used again
    texts        calibration texts, and the sequences of tokens that they become
    stream       a model layer by layer in bounded memory, float and quantized side by side
    passes       passes of all sequences through one step of it
    walk         the steps of a graph, which matrices share an input, the inputs of one sequence
    files        arrays in files: their room on the disk is taken first
    workspace    what a walk keeps on disk: hidden states, contexts
    steps        how far a walk is, with digests of what it left, so that one that was cut off goes on
    fisher       how much each output of a matrix and each token matters to what the model says: loss-aware Hessians
    sensitivities  what it finds of a whole model, kept on disk
    tables       how much the rows of an embedding or of an output matrix matter
    states       what its backward pass keeps on disk
    tune         end-to-end tuning of a quantized model to say what the float model says
    trained      a matrix on its grid while it is trained: what moves, and how gradients go through rounding
    points       a matrix on points of a codebook while it is trained
    forms        all block types that are trained
    reached      how far a training has come
    distill      what the float model says, and the divergence from it
    adam         the optimizer
    needs        what a walk takes of memory and of the disk
    blas         numpy's matrix products on one thread, so that sums do not depend on how many there are

All of it works on parts (`reference`), arrays and block types. It knows no file format, no checkpoint and no family.
"""
