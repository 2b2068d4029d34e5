"""How kernels are compiled, kept, scheduled and waited for. Imports nothing else of ``kernels``."""
