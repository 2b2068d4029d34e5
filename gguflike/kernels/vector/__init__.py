"""Sixteen lanes: the one vector library, on LLVM values of 64 bytes. Imports only ``engine``.

    types      names of vectors, addresses and LLVM values, for signatures
    sizes      how many lanes a vector has
    emitter    ``Emitter``: operations on vectors as LLVM code, and what depends on the machine
    arm        which products of small integers an Arm CPU has instructions for
    dot        sums of products of small integers, with the instructions that machines have for them
    lanes      vectors as numba values: their types, operators and functions; ``operation`` makes more of them
    int16      functions of thirty-two int16 lanes
    memory     loads and stores at addresses
    activations  silu, gelu and their like, tanh, sigmoid, softplus
    unpack     bit fields of words to lanes
    arrays     loads and stores of vectors in numpy arrays
    quantize   activations to int8
    fixed      the same by a step that is known before
    refine     and what that leaves of some of them to int8 once more
    args       the argument words of this folder's ops

Two kinds of functions use it. *Kernels* are compiled by numba: they see vectors as values with operators. *Emitting
functions* take an ``Emitter`` and LLVM values and write code through it, where kernels cannot say what they mean; with
``operation`` they become functions for kernels. A vector has three names: ``F32x16`` in the signatures of kernels,
``f32x16`` its numba type in the head of an ``operation``, and ``V16F32`` its LLVM type in emitting functions.
"""
