"""Whether a file is what it says, and whose it is: ``gguflike verify`` and ``gguflike sign``. Importing this imports
nothing else.

    verification  `verify`: structure, digests, finite and plausible values, and all of what follows
    meaning       what the metadata say: tokenizer, chat template, the settings of its architecture
    types         keys of types that llama.cpp refuses
    origin        the digest that a repository of the Hub has of it
    signature     by whose key it is signed; signing it

What can be said of a whole file by its header alone stands in gguflike/container/validate.py.
"""

from typing import TYPE_CHECKING

from gguflike import lazy

if TYPE_CHECKING:
    from gguflike.verify.signature import sign
    from gguflike.verify.verification import Report, verify

__all__ = ["Report", "sign", "verify"]

__getattr__ = lazy.names(__name__, {"Report": "verification", "sign": "signature", "verify": "verification"})
