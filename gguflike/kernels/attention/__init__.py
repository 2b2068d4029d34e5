"""Causal attention over a cache of keys and values, and the rotary positions before it."""
