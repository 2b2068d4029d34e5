r"""How byte-level BPE vocabularies split text into words: llama.cpp's names against Hugging Face's structures.

``tokenizer.ggml.pre`` names a splitting scheme; tokenizer.json spells it out as a ``pre_tokenizer``. Both come down to
an ordered list of regular expressions, each applied to every piece left by the one before, matches and gaps both kept.
One row per scheme states that list once, and serves both directions: a tokenizer.json is recognized by its structure,
not by a hash of its output, and a GGUF is given the structure back. The expressions are facts of the vocabularies
(as in the tokenizer.json files published with the models); the names are those llama.cpp accepts.
"""

# ruff: noqa: RUF001  the expressions name full-width and Arabic punctuation on purpose
from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from gguflike.checkpoint.vocabulary import SPACE
from gguflike.errors import CheckpointError, UnsupportedError, such_as
from gguflike.frozen import frozen

#: Steps of normalizers that write spaces as SentencePiece does, and put one before a text.
REPLACE_SPACES = {"type": "Replace", "pattern": {"String": " "}, "content": SPACE}
PREPEND_SPACE = {"type": "Prepend", "prepend": SPACE}

_CONTRACTIONS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_SPACES = r"\s*[\r\n]+|\s+(?!\S)|\s+"
# Jais 2 splits runs of white space at lengths that are tokens.
_RUNS = r"\s*[\r\n]+|" + "".join(rf"\s{{{2**n}}}(?!\S)|" for n in range(9, 1, -1)) + r"\s{1,2}(?!\S)|\s{1}"
_WORD = r"[^\r\n\p{L}\p{N}]?\p{L}+"
_SYMBOLS = r" ?[^\s\p{L}\p{N}]+[\r\n]*"
_UPPER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]"
_LOWER = r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
# @ stands for an optional contraction.
_CASED = rf"[^\r\n\p{{L}}\p{{N}}]?{_UPPER}*{_LOWER}+@|[^\r\n\p{{L}}\p{{N}}]?{_UPPER}+{_LOWER}*@"
_CASED_SYMBOLS = r" ?[^\s\p{L}\p{N}]+[\r\n/]*"

GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
LLAMA3 = rf"{_CONTRACTIONS}|{_WORD}|\p{{N}}{{1,3}}|{_SYMBOLS}|{_SPACES}"
QWEN2 = rf"{_CONTRACTIONS}|{_WORD}|\p{{N}}|{_SYMBOLS}|{_SPACES}"
QWEN35 = (
    rf"{_CONTRACTIONS}|[^\r\n\p{{L}}\p{{N}}]?[\p{{L}}\p{{M}}]+|\p{{N}}| ?[^\s\p{{L}}\p{{M}}\p{{N}}]+[\r\n]*|{_SPACES}"
)
TEKKEN = rf"{_CASED.replace('@', '')}|\p{{N}}|{_CASED_SYMBOLS}|{_SPACES}"
GPT4O = rf"{_CASED.replace('@', _CONTRACTIONS + '?')}|\p{{N}}{{1,3}}|{_CASED_SYMBOLS}|{_SPACES}"
DEEPSEEK3 = (
    r"[!\"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+"
    rf"| ?[\p{{P}}\p{{S}}]+[\r\n]*|{_SPACES}"
)
# Cased letters of an old Unicode version; escaped, because editors normalize some of them into others.
_DEEPSEEK_LETTERS = (
    r"\s?["
    "A-Za-z\u00b5\u00c0-\u00d6\u00d8-\u00f6\u00f8-\u01ba\u01bc-\u01bf\u01c4-\u0293\u0295-\u02af\u0370-\u0373"
    "\u0376\u0377\u037b-\u037d\u037f\u0386\u0388-\u038a\u038c\u038e-\u03a1\u03a3-\u03f5\u03f7-\u0481\u048a-\u052f"
    "\u0531-\u0556\u10a0-\u10c5\u13a0-\u13f5\u13f8-\u13fd\u1c90-\u1cba\u1cbd-\u1cbf\u1d00-\u1d2b\u1d6b-\u1d77"
    "\u1d79-\u1d9a\u1e00-\u1f15\u1f18-\u1f1d\u1f20-\u1f45\u1f48-\u1f4d\u1f50-\u1f57\u1f59\u1f5b\u1f5d"
    "\u1f5f-\u1f7d\u1f80-\u1fb4\u1fb6-\u1fbc\u1fbe\u1fc2-\u1fc4\u1fc6-\u1fcc\u1fd0-\u1fd3\u1fd6-\u1fdb"
    "\u1fe0-\u1fec\u1ff2-\u1ff4\u1ff6-\u1ffc\u2102\u2107\u210a-\u2113\u2115\u2119-\u211d\u2124\u2126\u2128"
    "\u212a-\u212d\u212f-\u2134\u2139\u213c-\u213f\u2145-\u2149\u214e\u2183\u2184\u2c00-\u2c7b\u2c7e-\u2ce4"
    "\u2ceb-\u2cee\u2cf2\u2cf3\ua640-\ua66d\ua680-\ua69b\ua722-\ua76f\ua771-\ua787\ua78b-\ua78e\uab70-\uabbf"
    "\ufb00-\ufb06\ufb13-\ufb17\uff21-\uff3a\uff41-\uff5a\U00010400-\U0001044f\U000104b0-\U000104d3"
    "\U000104d8-\U000104fb\U00010c80-\U00010cb2\U00010cc0-\U00010cf2\U000118a0-\U000118df\U0001e900-\U0001e943"
    "]+"
)
# The words of GPT-4o without Chinese characters, whose runs stand alone.
_K2_UPPER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}&&[^\p{Han}]]"
_K2_LOWER = r"[\p{Ll}\p{Lm}\p{Lo}\p{M}&&[^\p{Han}]]"
KIMI = (
    rf"[\p{{Han}}]+|[^\r\n\p{{L}}\p{{N}}]?{_K2_UPPER}*{_K2_LOWER}+{_CONTRACTIONS}?"
    rf"|[^\r\n\p{{L}}\p{{N}}]?{_K2_UPPER}+{_K2_LOWER}*{_CONTRACTIONS}?|\p{{N}}{{1,3}}|{_SYMBOLS}|{_SPACES}"
)
YOUTU_SCRIPTS = "[가-힣ㄱ-ㆎ]+|[！…“”‘’—：；，、-〿︰-﹏]+|[ㄅ-ㄯ]+|[一-龥぀-ゟ゠-ヿ]+"
_HAN = r"[一-龥ࠀ-一가-퟿]+"
_PUNCTUATION = r"[\p{P}$+<=>^~|`]+"
_DIGIT = r"\p{N}"


@frozen
class PreTokenizer:
    """One splitting scheme. The first of ``names`` is written; all are read."""

    names: str  # separated by spaces
    splits: tuple[str, ...]
    #: A word that is a token is taken whole, without trying the merges.
    ignore_merges: bool = False
    #: Unicode normalization the models of this scheme were trained with; not recorded in GGUF, nor done by its readers.
    nfc: bool = False

    @property
    def name(self) -> str:
        """What ``tokenizer.ggml.pre`` gets."""
        return self.names.split()[0]


SCHEMES = (
    PreTokenizer(
        "gpt-2 phi-2 jina-es jina-de gigachat jina-v2-es jina-v2-de a.x-4.0 mellum modern-bert mpt olmo jais trillion "
        "granite-docling exaone4 jina-v1-en jina-v2-code roberta-bpe",
        (GPT2,),
    ),
    PreTokenizer(
        "llama-bpe llama3 llama-v3 falcon3 falcon-h1 pixtral midm-2.0 lfm2 jina-v5-nano",
        (LLAMA3,),
        ignore_merges=True,
    ),
    PreTokenizer("dbrx smaug-bpe chatglm-bpe", (LLAMA3,)),
    PreTokenizer("glm4 glm5", (LLAMA3,), ignore_merges=True),
    PreTokenizer("jais-2", (LLAMA3.replace(_SPACES, _RUNS),)),
    PreTokenizer(
        "qwen2 deepseek-r1-qwen kormo f2llmv2 megrez stablelm2 hunyuan solar-open grok-2",
        (QWEN2,),
        nfc=True,
    ),
    PreTokenizer(
        "qwen35",
        (QWEN35,),
        nfc=True,
    ),
    PreTokenizer(
        "smollm starcoder refact command-r codeshell exaone minerva-7b mellum2",
        (_DIGIT, GPT2),
    ),
    PreTokenizer("deepseek-v3 hunyuan-dense joyai-llm hy_v4", (r"\p{N}{1,3}", "[一-龥぀-ゟ゠-ヿ]+", DEEPSEEK3)),
    PreTokenizer(
        "deepseek-llm", (r"[\r\n]", _DEEPSEEK_LETTERS, r"\s?[!-/:-~！-／：-～‘-‟　-。]+", r"\s+$", _HAN, r"\p{N}+")
    ),
    PreTokenizer("deepseek-coder", (r"[\r\n]", r"\s?\p{L}+", r"\s?\p{P}+", _HAN, _DIGIT)),
    PreTokenizer("tekken", (TEKKEN,), ignore_merges=True),
    PreTokenizer("gpt-4o llama4 kanana2 talkie minimax-m2", (GPT4O,)),
    PreTokenizer("granite-embed-multi-97m", (GPT4O,), ignore_merges=True),
    PreTokenizer("youtu", (YOUTU_SCRIPTS, GPT4O.replace(r"\p{N}{1,3}", r"\p{N}")), ignore_merges=True),
    PreTokenizer("kimi-k2", (KIMI,)),
    PreTokenizer("laguna", (r"[^\n]+|[\n]+", QWEN2)),
    PreTokenizer("ufakzeka", (QWEN2.removeprefix(_CONTRACTIONS + "|"),)),
    PreTokenizer(
        "afmoe",
        (
            r"\p{N}{1,3}(?=(?:\p{N}{3})*(?!\p{N}))",
            "[一-鿿㐀-䶿豈-\ufaff぀-ゟ゠-ヿ･-ﾟ⼀-⿟เ-\u0e7f\u0e80-\u0effក-\u17ffက-႟ꩠ-ꩿꧠ-꧿가-\ud7afᄀ-ᇿ]+",
            DEEPSEEK3,
        ),
    ),
    PreTokenizer(
        "chameleon",
        (
            "<sentinel:[0-9]+>",
            "(IMGIMG)((A|B|C|D|E|F|G|H|I){1,4})Z",
            r"([\t\n]|    |  )",
            _DIGIT,
            r"[\p{P}!-/:-@\[-`{-~]",
            GPT2,
        ),
    ),
    PreTokenizer("tiny_aya cohere2moe", (r"\d{1,3}(?=(?:\d{3})*\b)", GPT4O)),
    PreTokenizer("minicpm5", (r"\p{N}{1,3}", QWEN2.replace(r"|\p{N}|", r"|\p{N}+|")), ignore_merges=True),
    PreTokenizer(
        "seed-coder",
        (rf"{_CONTRACTIONS}|{_WORD}|\p{{N}}{{1}}| ?[^\s\p{{L}}\p{{N}}\r\n]+|{_SPACES}",),
    ),
    PreTokenizer(
        "bailingmoe bailingmoe2 llada-moe",
        (r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]++[\r\n]*|\s*[\r\n]|\s+(?!\S)|\s+",),
    ),
    PreTokenizer(
        "exaone-moe",
        (
            rf"{_CONTRACTIONS}|[^\r\n\p{{L}}\p{{N}}]?(?:\p{{L}}\p{{M}}*(?: \p{{L}}\p{{M}}*)*)+|\p{{N}}"
            r"| ?[^\s\p{L}\p{N}]+[\r\n/]?|\s*[\r\n]|\s+(?!\S)|\s+",
        ),
    ),
    PreTokenizer("superbpe", (r"\p{N}+", r"(?=(\d{3})+(?!\d))")),
    PreTokenizer("falcon", (_PUNCTUATION, GPT2, "[0-9][0-9][0-9]")),
    PreTokenizer("poro-chat bloom gpt3-finnish", (r" ?[^(\s|[.,!?…。，、।۔،])]+",)),
    PreTokenizer("viking", (r" ?[^(\s|[.,!?…。，、।۔،])]+", _DIGIT)),
    # What llama.cpp does for files that name no scheme; no model was trained so.
    PreTokenizer("default", (r"[\p{P}$+<=>^~|]+", GPT2, r"\p{N}+", "[0-9][0-9][0-9]")),
)

_BY_NAME = {name: scheme for scheme in SCHEMES for name in scheme.names.split()}


def by_name(name: str) -> PreTokenizer:
    """The scheme called ``name`` in ``tokenizer.ggml.pre``. UnsupportedError where it is not known."""
    scheme = _BY_NAME.get(name)
    if scheme is None:
        raise UnsupportedError(
            "pre-tokenizer is not handled",
            field="tokenizer.ggml.pre",
            expected=such_as(_BY_NAME, name[:80]),
            got=repr(name[:80]),
        )
    return scheme


def recognize(pre_tokenizer: Mapping[str, Any] | None, ignore_merges: bool) -> PreTokenizer:
    """The scheme of a tokenizer.json, found by what its ``pre_tokenizer`` does.

    UnsupportedError shows the expressions of one that llama.cpp does not know.
    """
    splits = tuple(splits_of(pre_tokenizer))
    matching = [scheme for scheme in SCHEMES if scheme.splits == splits]
    for scheme in matching:
        if scheme.ignore_merges == ignore_merges:
            return scheme
    wanted = " then ".join(splits) or "no splitting"
    if matching:
        wanted += f" with ignore_merges={ignore_merges}"
    raise UnsupportedError(
        "llama.cpp has no name for this pre_tokenizer", path="tokenizer.json", field="pre_tokenizer", got=wanted
    )


def splits_of(pre_tokenizer: Mapping[str, Any] | None) -> list[str]:
    """The canonical list of expressions that a pre_tokenizer applies in order."""
    splits: list[str] = []
    for step in flatten(pre_tokenizer):
        kind = step.get("type")
        if kind == "Split":
            splits.append(_split(step))
        elif kind == "Digits":
            splits.append(_DIGIT if step.get("individual_digits") else r"\p{N}+")
        elif kind == "Punctuation" and step.get("behavior") == "Contiguous":
            splits.append(_PUNCTUATION)
        elif kind == "ByteLevel":
            if step.get("use_regex", True):
                splits.append(GPT2)
        else:
            raise UnsupportedError("pre_tokenizer step is not handled", path="tokenizer.json", got=_shown(step))
    return splits


def flatten(node: Mapping[str, Any] | None, children: str = "pretokenizers") -> list[Mapping[str, Any]]:
    """The steps of a (nested) Sequence node of tokenizer.json, in order. CheckpointError for what is no such node."""
    steps: list[Mapping[str, Any]] = []
    waiting: list[Any] = [] if node is None else [node]
    while waiting:
        step = waiting.pop()
        below = step.get(children) if isinstance(step, Mapping) and step.get("type") == "Sequence" else None
        if not isinstance(step, Mapping) or not isinstance(below, (list, type(None))):
            raise CheckpointError(
                "malformed tokenizer.json", path="tokenizer.json", field=children, got=repr(step)[:200]
            )
        if step.get("type") == "Sequence":
            waiting += reversed(below or [])
        else:
            steps.append(step)
    return steps


def _split(step: Mapping[str, Any]) -> str:
    pattern = step.get("pattern")
    regex = pattern.get("Regex") if isinstance(pattern, Mapping) else None
    # "Removed" with invert keeps the matches and drops the gaps; the expressions used so leave no gaps.
    isolates = step.get("behavior") == "Isolated" or (step.get("behavior") == "Removed" and step.get("invert"))
    if not isinstance(regex, str) or not isolates:
        raise UnsupportedError("pre_tokenizer Split is not handled", path="tokenizer.json", got=_shown(step))
    return canonical(regex)


def canonical(regex: str) -> str:
    """One spelling for expressions that mean the same: escapes for control characters, one form of the contractions."""
    for character, escape in (("\n", r"\n"), ("\r", r"\r"), ("\t", r"\t")):
        regex = regex.replace(character, escape)
    regex = regex.replace(r"(?:'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD])", _CONTRACTIONS)
    return regex.replace(r"[\p{P}\$\+<=>\^~\|`]+", _PUNCTUATION)


def _shown(step: Mapping[str, Any]) -> str:
    return repr(dict(step))[:300]


def to_json(scheme: PreTokenizer, add_prefix_space: bool) -> dict[str, Any]:
    """The ``pre_tokenizer`` of tokenizer.json that does what the scheme says."""
    splits = list(scheme.splits)
    use_regex = splits[-1] == GPT2  # ByteLevel carries this expression itself, as the published files have it
    if use_regex:
        splits.pop()
    steps: list[dict[str, Any]] = [_step_json(regex) for regex in splits]
    steps.append(byte_level(add_prefix_space, use_regex))
    return steps[0] if len(steps) == 1 else {"type": "Sequence", "pretokenizers": steps}


def _step_json(regex: str) -> dict[str, Any]:
    if regex == _DIGIT:
        return {"type": "Digits", "individual_digits": True}
    return {"type": "Split", "pattern": {"Regex": regex}, "behavior": "Isolated", "invert": False}


def byte_level(add_prefix_space: bool, use_regex: bool) -> dict[str, Any]:
    """The ByteLevel node of tokenizer.json: as a pre_tokenizer, or (with True, True) as the decoder."""
    return {
        "type": "ByteLevel",
        "add_prefix_space": add_prefix_space,
        "trim_offsets": True,
        "use_regex": use_regex,
    }
