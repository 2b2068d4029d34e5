"""gguflike: a Hugging Face checkpoint in, a small, trustworthy, fast GGUF out."""

__version__ = "0.1.0"
