"""The vocabulary stored in GGUF metadata, checked once so that everything behind it may trust it.

Key names and defaults are llama.cpp's (gguf/constants.py, src/llama-vocab.cpp). Where llama.cpp ignores an odd value,
so do we; where it refuses to load, or would read out of bounds, a GGUFError names the key.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from enum import IntEnum
from functools import cached_property
from itertools import chain
from typing import TYPE_CHECKING, Any, NamedTuple, cast

import numpy as np

from gguflike.checkpoint import tokenizer_values as values
from gguflike.errors import GGUFError, UnsupportedError
from gguflike.frozen import frozen
from gguflike.texts import Texts

if TYPE_CHECKING:
    import numpy.typing as npt


def _byte_characters() -> list[str]:
    printable = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    others = [byte for byte in range(256) if byte not in printable]
    return [chr(byte if byte in printable else 0x100 + others.index(byte)) for byte in range(256)]


PREFIX = "tokenizer.ggml."
MODEL = PREFIX + "model"
PRE = PREFIX + "pre"
TOKENS = PREFIX + "tokens"
SCORES = PREFIX + "scores"
TYPES = PREFIX + "token_type"
MERGES = PREFIX + "merges"
ADD_BOS = PREFIX + "add_bos_token"
ADD_EOS = PREFIX + "add_eos_token"
ADD_SEP = PREFIX + "add_sep_token"
ADD_SPACE = PREFIX + "add_space_prefix"
REMOVE_SPACES = PREFIX + "remove_extra_whitespaces"
CHARSMAP = PREFIX + "precompiled_charsmap"
LOWERCASE = PREFIX + "normalizer.lowercase"
STRIP_ACCENTS = PREFIX + "normalizer.strip_accents"
CHAT_TEMPLATE = "tokenizer.chat_template"
CHAT_TEMPLATES = "tokenizer.chat_templates"

#: Role -> key of its token id.
SPECIAL_KEYS = {
    "bos": PREFIX + "bos_token_id",
    "eos": PREFIX + "eos_token_id",
    "eot": PREFIX + "eot_token_id",
    "eom": PREFIX + "eom_token_id",
    "unk": PREFIX + "unknown_token_id",
    "sep": PREFIX + "seperator_token_id",  # spelled so in the format
    "pad": PREFIX + "padding_token_id",
    "mask": PREFIX + "mask_token_id",
    "fim_pad": PREFIX + "fim_pad_token_id",
    "fim_rep": PREFIX + "fim_rep_token_id",
    "fim_sep": PREFIX + "fim_sep_token_id",
}

#: Roles whose token ends a generation.
_END_ROLES = ("eos", "eot", "eom", "fim_pad", "fim_rep", "fim_sep")

#: Models, and the ids that llama.cpp assumes where a file gives none.
_DEFAULT_IDS: dict[str, dict[str, int]] = {
    "gpt2": {},
    "llama": {"bos": 1, "eos": 2, "unk": 0},
    "bert": {"bos": 101, "unk": 100, "sep": 102, "pad": 0, "mask": 103},
    "t5": {"eos": 1, "unk": 2, "pad": 0},
    "gemma4": {},
}

#: Pre-tokenizers of byte-level BPE that say that there are no bytes: what model "gemma4" is by its name.
_RAW_BPE = ("gemma4", "granite-embed-multi-311m", "sarvam-moe")

#: Pre-tokenizers for which llama.cpp adds BOS unless the file says otherwise.
_BOS_BY_DEFAULT = "llama3 llama-v3 llama-bpe falcon3 falcon-h1 pixtral midm-2.0 lfm2 tekken chameleon"

#: Pre-tokenizers for which llama.cpp puts a separator between two texts unless the file says otherwise.
_SEP_BY_DEFAULT = ("jina-v1-en", "jina-v2-code", "roberta-bpe")

#: Tokens that end a generation whatever the special ids say (llama.cpp decides by text too).
_END_TEXTS = (
    "<|eot_id|> <|im_end|> <|end|> <|return|> <|call|> <|flush|> <|calls|> <end_of_turn> <|endoftext|> </s> <|eom_id|> "
    "<|fim_pad|> <fim-pad> <fim_pad> <PAD> [PAD] <|fim_repo|> <|repo_name|> <fim-repo> <REPO> <reponame> <|file_sep|> "
    "<EOT> _<EOT> [EOT] [EOS] <|end_of_text|> <end_of_utterance> <eos> <turn|> <|tool_response> [e~[ "
    "<\uff5cend\u2581of\u2581sentence\uff5c>"
)
ENDS = frozenset(_END_TEXTS.split())


def ends_by_text(ids: Mapping[str, int]) -> frozenset[int]:
    """The ids of tokens that end a generation by their text. ``ids`` may be all tokens, or those known by text only."""
    texts = ENDS.intersection(ids)
    # Harmony (gpt-oss) and Solar end messages, not turns, with <|end|>; Gemma 4 keeps an unrelated </s>.
    if {"<|return|>", "<|call|>"} <= texts or ("<|flush|>" in texts and texts & {"<|call|>", "<|calls|>"}):
        texts -= {"<|end|>"}
    if "<|tool_response>" in texts:
        texts -= {"</s>"}
    return frozenset(ids[text] for text in texts)


#: SentencePiece writes a space as this character.
SPACE = "\u2581"
CONTINUES = "##"  # before what goes on with a word, as tokenizer.json of WordPiece writes it

#: Byte-level BPE writes each byte as this character: itself where printable, else one from U+0100 on (GPT-2).
BYTE_CHARACTERS = "".join(_byte_characters())

BYTE_TOKEN = re.compile(r"<0x([0-9A-Fa-f]{2})>")


class TokenType(IntEnum):
    """Values of ``tokenizer.ggml.token_type``."""

    UNDEFINED = 0
    NORMAL = 1
    UNKNOWN = 2
    CONTROL = 3
    USER_DEFINED = 4
    UNUSED = 5
    BYTE = 6


#: As plain numbers: each look at an enumeration's member takes as long as all else that is asked of a token.
_MARKUP = (int(TokenType.CONTROL), int(TokenType.UNKNOWN))


class Stripping(NamedTuple):
    """Which tokens take white space along: on one side, those of ``texts`` (or all markup but those)."""

    side: str = ""  # "lstrip" before the token, "rstrip" behind it, or neither
    texts: frozenset[str] = frozenset()
    others: bool = False

    def takes(self, text: str, side: str) -> bool:
        """Whether the token ``text`` takes the white space on this side along."""
        return side == self.side and (text in self.texts) != self.others


def stripping(metadata: Mapping[str, Any]) -> Stripping:
    """What markup strips. GGUF has no field for that; llama.cpp goes by the names of models and pre-tokenizers."""
    pre, architecture, name = (
        value.lower() if isinstance(value := metadata.get(key), str) else ""
        for key in (PRE, "general.architecture", "general.name")
    )
    if any(part in pre for part in ("jina-v2-de", "jina-v2-es", "jina-v2-code")) or any(
        part in architecture for part in ("nomic-bert-moe", "jina-bert-v3")
    ):
        return Stripping("lstrip", frozenset({"<mask>"}))
    if "phi-3" in name or "phi3" in name:
        return Stripping("rstrip", frozenset({"<unk>", "<s>", "<|endoftext|>"}), others=True)
    if "modern-bert" in name:
        return Stripping("lstrip", frozenset({"[MASK]"}))
    return Stripping()


@frozen
class Vocabulary:
    """A checked vocabulary. ``tokens[i]``, ``types[i]`` and ``scores[i]`` belong to token id i."""

    # "gpt2": byte-level BPE; "llama": SentencePiece BPE with byte fallback; "gemma4": the same with merges instead of
    # scores; "bert": WordPiece; "t5": Unigram
    model: str
    pre: str
    texts: Texts  # the tokens, unique; one that is not UTF-8 stands as "[BYTES_<hex>]", with its bytes in ``raw``
    raw: dict[int, bytes]
    types: npt.NDArray[np.int64]
    scores: npt.NDArray[np.float64]
    merge_texts: Texts  # "left right", in order of rank
    special: dict[str, int]  # role of SPECIAL_KEYS -> token id < len(tokens)
    add_bos: bool
    add_eos: bool
    add_space_prefix: bool
    add_sep: bool = False  # whether a separator stands between two texts, beside what ends the first
    strips: Stripping = Stripping()
    lowercase: bool = True  # WordPiece: whether letters lose their case, and their accents
    strip_accents: bool = True
    removes_spaces: bool = False  # Unigram: whether a run of white space is as good as one space
    charsmap: bytes = b""  # Unigram: normal forms of characters
    is_scheme_unsaid: bool = False  # byte-level: the metadata does not say how a text is cut before merges apply

    @classmethod
    def from_metadata(cls, metadata: Mapping[str, Any]) -> Vocabulary:
        """Read and check the ``tokenizer.ggml.*`` keys. GGUFError or UnsupportedError names the key at fault."""
        model = values.string(metadata, MODEL, None)
        if model not in _DEFAULT_IDS:
            expected = ", ".join(_DEFAULT_IDS)
            raise UnsupportedError("tokenizer model is not handled", field=MODEL, expected=expected, got=model)
        pre = values.string(metadata, PRE, "default")
        if model == "gpt2" and pre in _RAW_BPE:
            model = "gemma4"
        texts, raw = _tokens(metadata)
        types = values.numbers(metadata, TYPES, "i", len(texts), TokenType.NORMAL).astype(np.int64)
        scores = values.numbers(metadata, SCORES, "if", len(texts), 0.0)
        if not np.isfinite(scores).all():
            first = int(np.flatnonzero(~np.isfinite(scores))[0])
            raise GGUFError("a token score is not finite", field=SCORES, got=f"{scores[first]} of token {first}")
        scores = scores.astype(np.float64)
        special = _special_ids(metadata, len(texts), _DEFAULT_IDS[model])
        add_bos = values.flag(metadata, ADD_BOS, model in ("llama", "gemma4") or pre in _BOS_BY_DEFAULT.split())
        add_eos = values.flag(metadata, ADD_EOS, model == "t5")
        add_sep = values.flag(metadata, ADD_SEP, pre in _SEP_BY_DEFAULT)
        if model == "bert":  # whatever the file says, as in llama.cpp
            add_bos = add_eos = True
        if model == "gemma4" and pre != "sarvam-moe":
            add_bos = True
        ending = "sep" if model == "bert" else "eos"
        for wanted, key, role in ((add_bos, ADD_BOS, "bos"), (add_eos, ADD_EOS, ending), (add_sep, ADD_SEP, "sep")):
            if wanted and role not in special:
                where = SPECIAL_KEYS[role]
                raise GGUFError(f"{key} is true but there is no such token", field=where, expected="its id")
        vocabulary = cls(
            model=model,
            pre=pre,
            texts=texts,
            raw=raw,
            types=types,
            scores=scores,
            merge_texts=values.strings(metadata, MERGES) if model in ("gpt2", "gemma4") else Texts.of(()),
            special=special,
            add_bos=add_bos,
            add_eos=add_eos,
            add_space_prefix=values.flag(metadata, ADD_SPACE, model in ("llama", "t5")),
            add_sep=add_sep,
            strips=stripping(metadata),
            lowercase=(lowercase := values.flag(metadata, LOWERCASE, True)),
            strip_accents=values.flag(metadata, STRIP_ACCENTS, lowercase),
            removes_spaces=values.flag(metadata, REMOVE_SPACES, False),
            charsmap=values.octets(metadata, CHARSMAP),
            is_scheme_unsaid=model == "gpt2" and PRE not in metadata,
        )
        if model in ("llama", "gemma4"):
            vocabulary._check_byte_tokens()
        return vocabulary

    def _check_byte_tokens(self) -> None:
        for index in np.flatnonzero(self.types == TokenType.BYTE).tolist():
            if not BYTE_TOKEN.fullmatch(self.tokens[index]):
                raise GGUFError(
                    "byte token names no byte",
                    field=f"{TOKENS}[{index}]",
                    expected="<0x00> to <0xFF>",
                    got=repr(self.tokens[index]),
                )

    @property
    def tokens(self) -> Sequence[str]:
        """The tokens, each decoded when it is asked for."""
        return cast("Sequence[str]", self.texts)

    @cached_property
    def _ends(self) -> frozenset[int]:
        """Ids of tokens that by their text end a generation."""
        return frozenset(self.texts.find(ENDS))

    @cached_property
    def end_ids(self) -> frozenset[int]:
        """Every id that ends a generation: those of the end roles, and tokens known by their text."""
        by_text = ends_by_text({self.tokens[index]: index for index in self._ends})
        return by_text | {self.special[role] for role in _END_ROLES if role in self.special}

    @property
    def doubt(self) -> str | None:
        """Why texts may get other ids than the model has learned, although encoding them fails nowhere."""
        if not self.is_scheme_unsaid:
            return None
        return "no pre-tokenizer is named: readers cut texts in a default way, hardly as the model has learned"

    @property
    def bytewise(self) -> bool:
        """Whether tokens write bytes, one character for each."""
        return self.model == "gpt2"

    @property
    def finds_markup(self) -> bool:
        """Whether the library's model finds control tokens in a text by itself, as that of a Unigram does."""
        return self.model == "t5"

    @property
    def ending(self) -> str:
        """The role of the token that ends a text where ``add_eos`` is set."""
        return "sep" if self.model == "bert" else "eos"

    def written(self, index: int) -> str:
        """A token as tokenizer.json writes it."""
        if self.model != "bert":
            return self.tokens[index]
        token = self.tokens[index]
        if self.types[index] == TokenType.CONTROL:
            return token
        return token[1:] if token.startswith(SPACE) else CONTINUES + token

    def added_ids(self) -> list[int]:
        """Ids matched in text before anything else: control, unknown and user-defined tokens, in order of id."""
        kinds = (TokenType.CONTROL, TokenType.UNKNOWN, TokenType.USER_DEFINED)
        typed = (np.flatnonzero(self.types == kind).tolist() for kind in kinds)
        return sorted({*chain(*typed), *filter(self.is_special, self._ends)})

    def is_special(self, index: int) -> bool:
        """Whether the token is markup (control or unknown), not text."""
        kind = int(self.types[index])
        if kind in _MARKUP:
            return True
        # Careless files leave their markup typed as text. "</s>" really is text in some vocabularies (Qwen2's).
        return index in self._ends and (self.tokens[index] != "</s>" or kind != TokenType.NORMAL)

    @cached_property
    def markup(self) -> Mapping[str, int]:
        """Control tokens, as tokenizer.json writes them, and their ids."""
        return {self.written(index): index for index in self.added_ids() if self.is_special(index)}

    def merges(self, indices: Sequence[int] | None = None) -> list[tuple[str, str]]:
        """Pairs in order of rank: all, or those at ``indices``. Entries that name no pair can never apply."""
        items = self.merge_texts.tolist() if indices is None else [self.merge_texts[index] for index in indices]
        pairs: list[tuple[str, str]] = []
        for merge in items:
            if isinstance(merge, str):
                at = merge.find(" ", 1)
                if 0 < at < len(merge) - 1:
                    pairs.append((merge[:at], merge[at + 1 :]))
        return pairs


def _tokens(metadata: Mapping[str, Any]) -> tuple[Texts, dict[int, bytes]]:
    texts = values.strings(metadata, TOKENS)
    if not len(texts):
        raise GGUFError("the vocabulary is empty", field=TOKENS)
    raw = {index: texts.raw(index) for index in texts.not_utf8()}
    empty = {index: f"[EMPTY_{index}]" for index in np.flatnonzero(texts.lengths == 0).tolist()}
    texts = texts.replaced(empty | {index: f"[BYTES_{data.hex()}]" for index, data in raw.items()})
    twice = texts.repeated()
    if twice is not None:
        first, second = twice
        raise GGUFError("two ids share a token", field=TOKENS, got=f"{texts[first]!r} at {first} and {second}")
    return texts, raw


def _special_ids(metadata: Mapping[str, Any], count: int, defaults: Mapping[str, int]) -> dict[str, int]:
    """Role -> id. An id beyond the vocabulary falls back to the default, as in llama.cpp."""
    ids = {role: index for role, index in defaults.items() if index < count}
    for role, key in SPECIAL_KEYS.items():
        value = metadata.get(key)
        if value is None:
            continue
        if isinstance(value, (bool, np.bool_)) or not isinstance(value, (int, np.integer)):
            raise GGUFError("wrong type", field=key, expected="an unsigned integer", got=type(value).__name__)
        if 0 <= value < count:
            ids[role] = int(value)
    return ids
