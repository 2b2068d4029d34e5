"""The tokenizer files of a Hugging Face folder -> the ``tokenizer.*`` metadata of a GGUF file.

    files         which files there are, parsed: tokenizer.json and those beside it
    kinds         what values in these files must be
    sources/      what stands in where tokenizer.json is missing, each read as the tokenizer.json that it amounts to
    read          the whole way
    losses        what of the source a file cannot say: told, or refused
    added         tokens found in a text before all others, and their types
    special       the tokens that have a role, such as the one that ends a text
    processors    what the post-processor puts before and behind a text
    bpe           normalizers, pre-tokenizers and merges of BPE

``vocabulary.py``, ``unigram.py``, ``wordpiece.py`` and ``pretokenizers.py`` beside this folder know what both sides
need; the way back is in ``tokenizer_json.py``.
"""

from typing import TYPE_CHECKING

from gguflike import lazy

if TYPE_CHECKING:
    from gguflike.checkpoint.tokenizer.read import Reading, metadata_from_folder, read

__all__ = ["Reading", "metadata_from_folder", "read"]

__getattr__ = lazy.names(__name__, dict.fromkeys(__all__, "read"))
