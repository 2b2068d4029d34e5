"""The tokens that have a role: which ids they are, what encoding puts around a text, and what ends a generation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from gguflike.checkpoint.tokenizer import processors
from gguflike.checkpoint.tokenizer.files import TokenizerFiles
from gguflike.checkpoint.tokenizer.losses import Losses, listed
from gguflike.checkpoint.vocabulary import ADD_BOS, ADD_EOS, ADD_SEP, SPECIAL_KEYS, ends_by_text
from gguflike.families.kinds import Kind

#: Texts of tokens that end a turn, in the order in which one is chosen as ``eot``.
_TURN_ENDS = ("<|eot_id|>", "<|im_end|>", "<|end|>", "<end_of_turn>", "<|endoftext|>", "<|end_of_text|>", "<EOT>")
_MESSAGE_END = "<|eom_id|>"

_ROLES = ("bos", "eos", "unk", "sep", "pad", "mask")
_IDS = Kind("a whole number, or a list of them", lambda value: all(type(index) is int for index in _as_list(value)))

#: What encoders call the tokens that begin and end a text.
_ENCODERS_WORDS = {"bos": "cls", "eos": "sep"}


class Roles:
    """Role -> id of the source's special tokens, with the keys that follow from them."""

    def __init__(
        self,
        source: TokenizerFiles,
        tokens: Sequence[str],
        config: Mapping[str, Any],
        generation_config: Mapping[str, Any] | None,
    ) -> None:
        """By the text that the tokenizer's files name, else the id in config.json or generation_config.json.

        CheckpointError where one of these says an id that is no whole number.
        """
        self.source = source
        self.tokens = tokens
        self.by_text = dict(zip(tokens, range(len(tokens)), strict=True))
        nested = config.get("text_config")
        places = [("config.json", config), ("config.json", nested), ("generation_config.json", generation_config)]
        self._stated = _stated([(name, mapping) for name, mapping in places if isinstance(mapping, Mapping)])
        self.ids: dict[str, int] = {}
        for role in _ROLES:
            text = source.token_text(role) or source.token_text(_ENCODERS_WORDS.get(role, role))
            found = [self.by_text[text]] if text in self.by_text else self._known(role)
            if found:
                self.ids[role] = found[0]

    def _known(self, role: str) -> list[int]:
        """The ids that the configurations give for a role, and that are tokens."""
        return [index for _, index in self._stated[role] if 0 <= index < len(self.tokens)]

    def fields(self, model: str, losses: Losses) -> dict[str, Any]:
        """The keys of GGUF for a vocabulary of this kind."""
        ends = [*self._known("eos"), *([self.ids["eos"]] if "eos" in self.ids else [])]
        adds = self._surround_wordpiece(losses) if model == "bert" else self._surround(model, losses)
        self._end(ends, losses)
        self._tell_unused(losses)
        fields: dict[str, Any] = {SPECIAL_KEYS[role]: index for role, index in self.ids.items()}
        fields |= {ADD_BOS: adds["bos"], ADD_EOS: adds["eos"]}
        texts = {self.tokens[self.ids[role]] for role in ("sep", "eos") if role in self.ids}
        separates = processors.separates(self.source, texts)
        return fields if separates is None else fields | {ADD_SEP: separates and "sep" in self.ids}

    def _tell_unused(self, losses: Losses) -> None:
        """Tell of ids of the configurations that are no tokens, and of those that are other ones than the file's."""
        for role, stated in self._stated.items():
            for name, index in dict.fromkeys(stated):
                said = f"{name} says {role}_token_id {index}"
                if not 0 <= index < len(self.tokens):
                    losses.say(f"{said}, but there are only the tokens 0 to {len(self.tokens) - 1}: left out")
                elif role != "eos" and index != self.ids[role]:  # of ends, there may be several
                    named = self.tokens[self.ids[role]]
                    losses.say(f"{said}, {self.tokens[index]!r}: the file says {self.ids[role]}, {named!r}")

    def _surround(self, model: str, losses: Losses) -> dict[str, bool]:
        """Whether one token is put before a text and one behind it, which become the ones of these roles."""
        around = processors.surrounding(self.source, self.by_text)
        adds: dict[str, bool] = {}
        for role, side, found in (("bos", "begins", around.prefix), ("eos", "ends", around.suffix)):
            texts = [self.tokens[index] for index in found]
            adds[role] = len(found) == 1
            if len(found) > 1:
                losses.say(
                    f"encoding {side} a text with {listed(texts)}, of which GGUF can say one: none is added; "
                    "what a chat template writes is not touched"
                )
                losses.surrounded = False
            elif found:
                named = self.ids.get(role)
                if named is not None and named != found[0]:
                    losses.say(
                        f"encoding {side} a text with {texts[0]!r}, while {role}_token is {self.tokens[named]!r}: GGUF "
                        f"has one token for both, which is {texts[0]!r}"
                    )
                self.ids[role] = found[0]
            stated = self.source.config.get(f"add_{role}_token")
            if isinstance(stated, bool) and stated != bool(found) and self.source.is_json:
                says = f"adds {listed(texts)}" if found else "adds none"
                losses.say(
                    f"tokenizer_config.json says add_{role}_token={str(stated).lower()}, but the post-processor of "
                    f"tokenizer.json {says}: the file does as the post-processor, as transformers does"
                )
        if model == "gemma4" and not adds["bos"]:
            losses.say("llama.cpp begins every text of this kind of vocabulary with bos_token, which encoding does not")
            losses.surrounded = False
        return adds

    def _surround_wordpiece(self, losses: Losses) -> dict[str, bool]:
        """Readers put the same two tokens around every text of a WordPiece vocabulary."""
        around = processors.surrounding(self.source, self.by_text)
        if len(around.prefix) == len(around.suffix) == 1:
            self.ids |= {"bos": around.prefix[0], "sep": around.suffix[0]}
            return {"bos": True, "eos": True}
        losses.surrounded = False
        losses.say(
            "readers of GGUF put cls_token before and sep_token behind every text of a WordPiece vocabulary; encoding "
            "adds " + (listed(self.tokens[index] for index in (*around.prefix, *around.suffix)) or "none")
        )
        return {"bos": False, "eos": False}

    def _end(self, ends: Sequence[int], losses: Losses) -> None:
        """Name further tokens that end a generation: that of a turn, of a message. Tell of those without a place."""
        rest = [index for index in dict.fromkeys(ends) if index != self.ids.get("eos")]
        for index in rest:
            if self.tokens[index] == _MESSAGE_END:
                self.ids["eom"] = index
        rest = sorted(
            (index for index in rest if self.tokens[index] != _MESSAGE_END),
            key=lambda index: (*_TURN_ENDS, self.tokens[index]).index(self.tokens[index]),
        )
        free = [role for role in ("eot", "eom") if role not in self.ids]
        by_text = ends_by_text(self.by_text)
        if len(rest) > len(free):  # those that every reader knows by their text need no place
            rest = [index for index in rest if index not in by_text]
        self.ids |= dict(zip(free, rest, strict=False))
        without = [self.tokens[index] for index in rest[len(free) :]]
        if without:
            losses.say(f"GGUF has no place for so many tokens that end a generation: {listed(without)} will end none")


def _stated(places: Sequence[tuple[str, Mapping[str, Any]]]) -> dict[str, list[tuple[str, int]]]:
    """Role -> the ids that configurations give for it, with the file that does. A null and an empty list say none."""
    found: dict[str, list[tuple[str, int]]] = {role: [] for role in _ROLES}
    for role, stated in found.items():
        for name, mapping in places:
            value = mapping.get(f"{role}_token_id")
            if not _IDS.holds(value):
                field, remedy = f"{name}: {role}_token_id", "write the token's id, or null for none"
                raise _IDS.wrong(value, field=field, remedy=remedy)
            stated += [(name, index) for index in _as_list(value)]
    return found


def _as_list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [] if value is None else [value]
