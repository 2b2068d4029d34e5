"""Encoders of the codebook types: points of a lattice found without looking at all of them."""
