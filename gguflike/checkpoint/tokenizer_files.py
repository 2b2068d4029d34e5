"""The tokenizer files that a Hugging Face folder publishes, parsed but not interpreted."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from gguflike.checkpoint import files, strictjson
from gguflike.errors import CheckpointError


class TokenizerFiles:
    """The tokenizer files of a folder, parsed; the optional ones are empty where absent."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.path = folder / "tokenizer.json"
        if not files.present(self.path):
            raise CheckpointError(
                "the folder has no tokenizer.json",
                path=folder,
                remedy="save one with transformers: AutoTokenizer.from_pretrained(...).save_pretrained(...)",
            )
        self.document = document = strictjson.load_texts(self.path)
        self.config = _optional(folder / "tokenizer_config.json")
        self.special_map = _optional(folder / "special_tokens_map.json")
        self.model = self._part("model", dict)
        self.added: list[dict[str, Any]] = self._part("added_tokens", list) if document.get("added_tokens") else []
        if not all(isinstance(entry, dict) and isinstance(entry.get("content"), str) for entry in self.added):
            raise CheckpointError(
                "malformed tokenizer.json", path=self.path, field="added_tokens", expected="objects with id and content"
            )
        extra = _optional(folder / "added_tokens.json")
        known = {entry.get("content") for entry in self.added}
        self.added += [
            {"id": index, "content": text, "special": False} for text, index in extra.items() if text not in known
        ]

    def _part(self, key: str, kind: type) -> Any:
        value = self.document.get(key)
        if not isinstance(value, kind):
            raise CheckpointError(
                "malformed tokenizer.json", path=self.path, field=key, expected=kind.__name__, got=type(value).__name__
            )
        return value

    def node(self, key: str) -> Mapping[str, Any] | None:
        value = self.document.get(key)
        if value is not None and not isinstance(value, dict):
            raise CheckpointError("malformed tokenizer.json", path=self.path, field=key, got=type(value).__name__)
        return value

    def token_text(self, role: str) -> str | None:
        """Text of the special token for ``role`` as the tokenizer's own files name it."""
        for mapping in (self.config, self.special_map, self.model if role == "unk" else {}):
            entry = mapping.get(f"{role}_token")
            if isinstance(entry, dict):
                entry = entry.get("content")
            if isinstance(entry, str):
                return entry
        return None

    def templates(self) -> dict[str, str]:
        """Name -> text. A chat_template.jinja beside the configuration wins, as in transformers."""
        found: dict[str, str] = {}
        stored = self.config.get("chat_template")
        if stored is None:
            stored = _optional(self.folder / "chat_template.json").get("chat_template")
        if isinstance(stored, str):
            found["default"] = stored
        elif stored is not None:
            entries = stored if isinstance(stored, list) else [stored]
            if not all(isinstance(e, dict) and isinstance(e.get("template"), str) for e in entries):
                raise CheckpointError(
                    "malformed chat template",
                    path=self.folder,
                    field="chat_template",
                    expected="a text, or a list of objects with name and template",
                    got=repr(stored)[:120],
                )
            found |= {str(entry.get("name", "default")): entry["template"] for entry in entries}
        named = sorted((self.folder / "additional_chat_templates").glob("*.jinja"))
        for path in (self.folder / "chat_template.jinja", *named):
            if not files.present(path):
                continue
            text = files.read_text(path)
            found["default" if path.name == "chat_template.jinja" else path.stem] = text
        return found


def _optional(path: Path) -> dict[str, Any]:
    return strictjson.load_texts(path) if files.present(path) else {}
