"""Reverse-mode differentiation of the functions of reference/, so that none of them is written twice.

A `Traced` array stands in for a numpy array by numpy's own protocols (``__array_ufunc__``, ``__array_function__``): the
functions run on it unchanged, and a `Tape` keeps for each operation how a gradient goes back through it. `backward`
walks the tape in reverse and frees what it has passed.

  tape.py         Tape, Traced, Gradients: what is recorded, and the walk back
  rules.py        one derivative for each numpy function that reference/ calls
  contraction.py  einsum of two arrays by BLAS
  graph.py        a model's gradient, block by block: only one block's activations are held

What has no derivative (an order, a choice, a comparison) is a plain array. A function without a rule is a TypeError.
"""

from gguflike.reference.gradient import rules as rules  # which registers them
from gguflike.reference.gradient.tape import Gradients as Gradients
from gguflike.reference.gradient.tape import Product as Product
from gguflike.reference.gradient.tape import Tape as Tape
from gguflike.reference.gradient.tape import Traced as Traced
