#!/usr/bin/env python3
"""Write gguflike/families/assumed.json: what Transformers assumes for keys that config.json lacks.

    python scripts/gen_assumed.py            write it (needs the interop extra)
    python scripts/gen_assumed.py --check    say whether it is out of date, and write nothing

For each class of the registry it has the ``model_type`` of its configuration and of its text model's; for each of these
the other names of keys, and the defaults of its configuration class (of one around a text model: whether matrices are
tied, and what it assumes of the text model instead). Left out are keys that change nothing, and defaults of None, which
configuration classes compute from other keys; so do the families.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import transformers

from gguflike.families import registry
from gguflike.families.config import NESTED
from gguflike.families.decoder import INERT_KEYS

TARGET = Path(registry.__file__).parent / "assumed.json"
# Apart: of which `rotation` knows more; and what changes nothing. (Where padding is, RoBERTa's positions begin.)
_LEFT_OUT = {"rope_parameters", "rope_scaling", "rope_theta", "partial_rotary_factor", *INERT_KEYS} - {"pad_token_id"}


def config_class(name: str) -> Any:
    """The configuration class of a model class, or of its sibling where the name is only that of a Hub's own code; None
    for models that Transformers does not have."""
    siblings = [other for other, place in registry.CLASSES.items() if place == registry.CLASSES[name]]
    known = (getattr(transformers, each).config_class for each in (name, *siblings) if hasattr(transformers, each))
    return next(known, None)


def text_class(kind: Any) -> Any:
    """The class of the configuration of its text model; itself where there is none inside."""
    nested = next((key for key in NESTED if key in kind.sub_configs), None)
    return kind if nested is None else type(getattr(kind(), nested))


def defaults(kind: Any) -> dict[str, Any]:
    """The keys and their values."""
    found = {}
    for field in dataclasses.fields(kind):
        made = field.default_factory() if field.default_factory is not dataclasses.MISSING else field.default
        name = kind.attribute_map.get(field.name, field.name)
        unsaid = made is None or made is dataclasses.MISSING or name.startswith("_")
        if not unsaid and name not in _LEFT_OUT | set(kind.sub_configs):
            found[name] = list(made) if isinstance(made, tuple) else made
    return found


def tied(kind: Any) -> dict[str, Any]:
    """Whether matrices are tied, where the configuration around that of a text model has a say."""
    value = getattr(kind(), "tie_word_embeddings", None)
    return {} if value is None else {"tie_word_embeddings": value}


def of_text(kind: Any, text: Any) -> dict[str, Any]:
    """What the configuration around that of a text model assumes of it, where that is something else."""
    given, usual = kind.sub_configs_defaults.get("text_config"), defaults(text)
    init = given.init_kwargs if given else {}
    kept = {name: value for name, value in init.items() if name not in _LEFT_OUT and value is not None}
    made = kind(text_config={"model_type": text.model_type}).text_config.to_dict()
    if not any(made[name] == value != usual[name] for name, value in kept.items() if name in usual):
        return {}  # where it says something of the text model, it says all
    differing = {name: value for name, value in kept.items() if value != usual.get(name)}
    if made.get("rope_parameters") != text().to_dict().get("rope_parameters"):
        differing |= plain_rotation(made["rope_parameters"])
    return {"text": differing}


def rotation(kind: Any) -> dict[str, Any]:
    """What the class assumes of positions, in the fewest keys: a base and a share, or settings as a whole."""
    settings = getattr(kind(), "rope_parameters", None)
    if not settings:
        return {}
    if settings.get("rope_type") in ("default", "axial"):  # the latter is of positions in images
        return plain_rotation(settings)
    base = kind.default_theta
    local = {"rope_theta": base["global"], "rope_local_base_freq": base["local"]} if isinstance(base, dict) else {}
    return {"rope_theta": base, **local, "rope_parameters": settings}


def plain_rotation(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The same of settings that do not stretch."""
    share = settings.get("partial_rotary_factor")
    return {"rope_theta": settings["rope_theta"], **({} if share is None else {"partial_rotary_factor": share})}


def table() -> tuple[dict[str, list[str]], dict[str, Any]]:
    """(model class -> the model_type of its configuration and of its text model's, model_type -> its entry)."""
    classes, entries = {}, {}
    for name in sorted(registry.CLASSES):
        kind = config_class(name)
        if kind is None:
            continue
        text = text_class(kind)
        classes[name] = [kind.model_type, text.model_type]
        names = {"names": dict(text.attribute_map)} if text.attribute_map else {}
        entries[text.model_type] = {**names, "values": {**defaults(text), **rotation(text)}}
        if text is not kind:
            entries[kind.model_type] = {"values": tied(kind), **of_text(kind, text)}
    return classes, dict(sorted(entries.items()))


def text() -> str:
    """The file: a line for each entry, so that differences show what changed."""

    def lines(entries: Mapping[str, Any]) -> Iterator[str]:
        for name, entry in entries.items():
            yield f"  {json.dumps(name)}: {json.dumps(entry)}"

    classes, types = table()
    made = f"Transformers {transformers.__version__}"
    return (
        f'{{\n "of": {json.dumps(made)},\n "classes": {{\n'
        + ",\n".join(lines(classes))
        + '\n },\n "types": {\n'
        + ",\n".join(lines(types))
        + "\n }\n}\n"
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true")
    if parser.parse_args().check:
        sys.exit(0 if TARGET.read_text(encoding="utf-8") == text() else f"{TARGET} is out of date")
    TARGET.write_text(text(), encoding="utf-8")
