"""The tokenizer files that a Hugging Face folder publishes, parsed but not interpreted."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from gguflike.checkpoint import files, strictjson
from gguflike.checkpoint.tokenizer import kinds
from gguflike.errors import CheckpointError

_FLAGS = ("special", "lstrip", "rstrip", "single_word", "normalized")


class TokenizerFiles:
    """The tokenizer files of a folder, parsed; the optional ones are empty where absent.

    ``path`` is the file that has the vocabulary, ``document`` that file as tokenizer.json, and ``scores`` the scores of
    its tokens by id where it is one of SentencePiece. ``names`` are special tokens that go without saying.
    """

    def __init__(self, folder: Path, config: Mapping[str, Any] | None = None) -> None:
        """``config`` is config.json. CheckpointError where files are missing or malformed."""
        self.folder = folder
        self.config = _optional(folder / "tokenizer_config.json")
        self.special_map = _optional(folder / "special_tokens_map.json")
        kinds.check_config(self.config, folder / "tokenizer_config.json")
        kinds.check_config(self.special_map, folder / "special_tokens_map.json")
        self.scores: Sequence[float] | None = None
        self.names: Mapping[str, str] = {}
        self.path = folder / "tokenizer.json"
        if files.present(self.path):
            self.document = strictjson.load_texts(self.path)
        else:
            from gguflike.checkpoint.tokenizer import sources

            found = sources.read(folder, self.config, config or {})
            self.path, self.document, self.scores, self.names = found
        kinds.check_document(self.document, self.path)
        self.model: dict[str, Any] = self._part("model", dict)
        self.added = self._added()

    @property
    def is_json(self) -> bool:
        """Whether the folder has a tokenizer.json."""
        return self.path.name == "tokenizer.json"

    def _added(self) -> list[dict[str, Any]]:
        """Tokens found before all others: those of tokenizer.json, then what other files add."""
        added: list[Any] = list(self.document.get("added_tokens") or [])
        if not all(isinstance(entry, dict) and isinstance(entry.get("content"), str) for entry in added):
            raise CheckpointError(
                "malformed tokenizer.json", path=self.path, field="added_tokens", expected="objects with id and content"
            )
        for number, entry in enumerate(added):
            kinds.check_added(entry, self.path, f"added_tokens[{number}]")
        known = {entry["content"] for entry in added}
        for entry in self._further():
            if entry["content"] not in known:
                known.add(entry["content"])
                added.append(entry)
        return added

    def _further(self) -> list[dict[str, Any]]:
        path = self.folder / "tokenizer_config.json"
        found: list[dict[str, Any]] = []
        for index, entry in (self.config.get("added_tokens_decoder") or {}).items():
            text = entry.get("content") if isinstance(entry, dict) else entry
            if not (re.fullmatch(r"[0-9]{1,18}", index) and isinstance(text, str)):
                got = f"{index!r}: {entry!r}"[:200]
                raise CheckpointError("malformed", path=path, field="added_tokens_decoder", got=got)
            flags = entry if isinstance(entry, dict) else {}
            kinds.check_added({**flags, "id": int(index)}, path, f"added_tokens_decoder.{index}")
            found.append({"id": int(index), "content": text, **{flag: bool(flags.get(flag)) for flag in _FLAGS}})
        path = self.folder / "added_tokens.json"
        extra = _optional(path)
        for text, index in extra.items():
            kinds.check_added({"id": -1 if index is None else index}, path, f"{text!r:.80}")
        return found + [{"id": index, "content": text, "special": False} for text, index in extra.items()]

    def _part(self, key: str, kind: type) -> Any:
        value = self.document.get(key)
        if not isinstance(value, kind):
            raise CheckpointError(
                "malformed tokenizer.json", path=self.path, field=key, expected=kind.__name__, got=type(value).__name__
            )
        return value

    def node(self, key: str) -> Mapping[str, Any] | None:
        """A part of tokenizer.json such as the normalizer; None where there is none."""
        value = self.document.get(key)
        if value is not None and not isinstance(value, dict):
            raise CheckpointError("malformed tokenizer.json", path=self.path, field=key, got=type(value).__name__)
        return value

    @property
    def tokenizer_class(self) -> str:
        """The class that tokenizer_config.json names, without the "Fast" that some versions of Transformers put."""
        return str(self.config.get("tokenizer_class") or "").removesuffix("Fast")

    def named(self) -> list[tuple[Path, str, str]]:
        """(file, key, text) of every special token that the tokenizer's own files name."""
        found: list[tuple[Path, str, str]] = []
        listed: Iterable[Any]
        for name, mapping in (("tokenizer_config.json", self.config), ("special_tokens_map.json", self.special_map)):
            path = self.folder / name
            for key, value in mapping.items():
                if key in ("additional_special_tokens", "extra_special_tokens"):
                    listed = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
                elif key.endswith("_token") and not key.startswith("add_"):
                    listed = (value,)
                else:
                    continue
                texts = (entry.get("content") if isinstance(entry, dict) else entry for entry in listed)
                found += [(path, key, text) for text in texts if isinstance(text, str) and text]
        return found

    def token_text(self, role: str) -> str | None:
        """Text of the special token for ``role`` as the tokenizer's own files name it."""
        for mapping in (self.config, self.special_map, self.names, self.model if role == "unk" else {}):
            entry = mapping.get(f"{role}_token")
            if isinstance(entry, dict):
                entry = entry.get("content")
            if isinstance(entry, str) and entry:
                return entry
        return None

    def templates(self) -> dict[str, str]:
        """Name -> text. A chat_template.jinja beside the configuration wins, as in transformers."""
        found: dict[str, str] = {}
        path, stored = self.folder / "tokenizer_config.json", self.config.get("chat_template")
        if stored is None:
            path = self.folder / "chat_template.json"
            stored = _optional(path).get("chat_template")
        if isinstance(stored, str):
            found["default"] = stored
        elif stored is not None:
            entries = stored if isinstance(stored, list) else [stored]
            if not all(map(_is_template, entries)):
                raise CheckpointError(
                    "malformed chat template",
                    path=path,
                    field="chat_template",
                    expected="a text, or a list of objects with name and template",
                    got=repr(stored)[:120],
                )
            found |= {entry.get("name", "default"): entry["template"] for entry in entries}
        named = sorted((self.folder / "additional_chat_templates").glob("[!.]*.jinja"))
        for path in (self.folder / "chat_template.jinja", *named):
            if not files.present(path):
                continue
            text = files.read_text(path)
            found["default" if path.name == "chat_template.jinja" else path.stem] = text
        return found


def _is_template(entry: Any) -> bool:
    """Whether an entry of a list of chat templates is one."""
    parts = (entry.get("template"), entry.get("name", "default")) if isinstance(entry, dict) else (None,)
    return all(isinstance(part, str) for part in parts)


def _optional(path: Path) -> dict[str, Any]:
    return strictjson.load_texts(path) if files.present(path) else {}
