"""Sixteen lanes: the one vector library, on LLVM values of 64 bytes. Imports only ``engine``."""
