"""The page of a repository of GGUF files: what they hold, of what and how they were made, how to run them.

What is said is what the files say of themselves (spec/metadata.md). Texts of other people are made safe to print.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import PurePosixPath
from typing import Any, NamedTuple

from gguflike import __version__, quality
from gguflike.checkpoint.hub import resolver

_HUB = re.compile(r"https://(?:huggingface\.co|hf\.co)/([\w.-]+/[\w.-]+)")


class Entry(NamedTuple):
    """One file: its name, its size, SHA-256 in hex, the name of its mix, its weights, bits for each, and what of its
    metadata is not an array."""

    name: str
    nbytes: int
    sha256: str
    type: str | None
    parameters: int
    bits_per_weight: float | None
    metadata: Mapping[str, Any]


def page(repo: str, entries: Sequence[Entry]) -> str:
    """README.md for a repository of these files, of which there is at least one."""
    models = [entry for entry in entries if entry.name in resolver.models_of([entry.name])] or list(entries)
    said = models[0].metadata
    title = _plain(said.get("general.name") or repo.partition("/")[2])
    parts = [
        f"---\n{_front_matter(said, _kinds(entries))}---",
        f"# {title}, GGUF",
        _of_what(said),
        _table(entries),
        *_quality(models),
        *_made(models),
        _runs(repo, models[0]),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def base_models(said: Mapping[str, Any]) -> list[str]:
    """The repositories that a file was made of: the one that was converted, or else those that it names as its base."""
    source = _repository(said.get("general.source.repo_url"))
    if source:
        return [source]
    count = said.get("general.base_model.count")
    urls = [said.get(f"general.base_model.{i}.repo_url") for i in range(count if isinstance(count, int) else 0)]
    return [name for url in urls if (name := _repository(url))]


def _front_matter(said: Mapping[str, Any], kinds: Sequence[str]) -> str:
    import yaml

    tags = [*dict.fromkeys(["gguf", *kinds, *_texts(said.get("general.tags"))])]
    facts = {
        "base_model": base_models(said),
        "base_model_relation": ("adapter" if _is_adapter(said) else "quantized") if base_models(said) else None,
        **_license(said),
        "license_link": said.get("general.license.link"),
        "language": _texts(said.get("general.languages")),
        "datasets": _datasets(said),
        "library_name": "gguf",
        "tags": tags,
    }
    text: str = yaml.safe_dump(
        {key: value for key, value in facts.items() if value}, sort_keys=False, allow_unicode=True
    )
    return text


def _license(said: Mapping[str, Any]) -> dict[str, object]:
    """The licence as the Hub has it: one of its short names, or ``other`` and a name."""
    stated, name = said.get("general.license"), said.get("general.license.name")
    if isinstance(stated, str) and not re.fullmatch(r"[a-z0-9][a-z0-9.+-]*", stated):
        return {"license": "other", "license_name": name or stated}
    return {"license": stated, "license_name": name}


def _datasets(said: Mapping[str, Any]) -> list[str]:
    count = said.get("general.dataset.count")
    urls = [said.get(f"general.dataset.{i}.repo_url") for i in range(count if isinstance(count, int) else 0)]
    return [url.partition("/datasets/")[2] for url in urls if isinstance(url, str) and "/datasets/" in url]


def _kinds(entries: Sequence[Entry]) -> list[str]:
    """What search on the Hub goes by: that there is an importance matrix behind the types."""
    return ["imatrix"] if any("gguflike.imatrix" in entry.metadata for entry in entries) else []


def _of_what(said: Mapping[str, Any]) -> str:
    named = [f"[{name}](https://huggingface.co/{name})" for name in base_models(said)]
    source = said.get("gguflike.source")
    of = " and ".join(named) or (_plain(source) if source else "")
    architecture = said.get("general.architecture")
    kind = f" ({_plain(architecture)})" if architecture else ""
    return f"{of}{kind} as GGUF, for llama.cpp, Ollama, LM Studio and gguflike." if of else ""


def _table(entries: Sequence[Entry]) -> str:
    rows = ["| File | Type | Weights | Bits per weight | Size | SHA-256 |", "|---|---|---:|---:|---:|---|"]
    for entry in entries:
        bits = "" if entry.bits_per_weight is None else f"{entry.bits_per_weight:.2f}"
        rows.append(
            f"| {_cell(entry.name)} | {_cell(entry.type or '')} | {entry.parameters:,} | {bits} "
            f"| {entry.nbytes:,} bytes | `{entry.sha256}` |"
        )
    return "\n".join(rows)


def _quality(models: Sequence[Entry]) -> list[str]:
    """How far each file is from its model in floats, as far as the files say that."""
    lines = []
    names = ("kl_99", "same_top", "perplexity", "reference_perplexity")
    for entry in models:
        for row in quality.rows(entry.metadata):
            kl = f"{_number(row['kl'])} ± {_number(row['kl_error'])}"
            cells = [_cell(entry.name), _cell(str(row["text"])), _number(row["tokens"]), kl]
            lines.append(f"| {' | '.join([*cells, *(_number(row[name]) for name in names)])} |")
    if not lines:
        return []
    head = "| File | Text | Tokens | KL divergence | 99 % | Same likeliest token | Perplexity | In floats |"
    said = "On text that nothing was calibrated on, beside the model in floats; measured by `gguflike eval`."
    return ["## Quality", said, "\n".join([head, "|---|---|---:|---:|---:|---:|---:|---:|", *lines])]


def _number(value: object) -> str:
    return f"{value:,}" if isinstance(value, int) else f"{value:.4g}" if isinstance(value, float) else ""


def _made(models: Sequence[Entry]) -> list[str]:
    """Source, commit and recipe, and the command that makes the same bytes, of the files that say so."""
    lines = []
    for entry in models:
        said = entry.metadata
        if "gguflike.recipe" not in said:
            continue
        facts = [f"recipe {_plain(said['gguflike.recipe'])}"]
        facts += [f"source {_plain(said['gguflike.source'])}"] if "gguflike.source" in said else []
        revision = said.get("gguflike.source.revision")
        facts += [f"at commit `{_plain(revision)}`"] if revision else []
        matrix = said.get("gguflike.imatrix")
        facts += [f"importance matrix {_plain(matrix)}"] if matrix else []
        overrides = _texts(said.get("gguflike.recipe.overrides"))
        facts += ["tensor types " + ", ".join(map(_plain, overrides))] if overrides else []
        facts += [f"gguflike {_plain(said.get('gguflike.version') or '')}"]
        lines.append(f"- {_cell(entry.name)}: {', '.join(facts)}")
    return ["## How they were made", "\n".join(lines)] if lines else []


def _is_adapter(said: Mapping[str, Any]) -> bool:
    return bool(said.get("general.type") == "adapter")


def _runs(repo: str, entry: Entry) -> str:
    name = entry.name
    kind = resolver.type_of(name)
    tag = f"{repo}:{kind}" if kind else repo
    file = PurePosixPath(name).name
    llama = f"llama-cli -hf {tag}" if kind else f"llama-cli --hf-repo {repo} --hf-file {file}"
    ours = tag if kind else f"hf://{repo}/{name}"
    use = f"{llama}\n\npip install gguflike\ngguflike chat {ours}"
    if _is_adapter(entry.metadata):
        use = f"llama-cli -m MODEL.gguf --lora {file}\n\npip install gguflike"
    return (
        "## Run\n\n```\n"
        f"{use}\ngguflike verify {ours}\n"
        f"```\n\nThis page was made by `gguflike upload` {__version__} from what the files say of themselves."
    )


def _repository(url: object) -> str | None:
    match = _HUB.fullmatch(url.rstrip("/")) if isinstance(url, str) else None
    return match[1] if match else None


def _texts(value: object) -> list[str]:
    items = value if isinstance(value, list) else [value] if isinstance(value, str) else []
    return [item for item in items if isinstance(item, str)]


def _plain(value: object) -> str:
    """Somebody else's text as text: what Markdown and HTML read as markup is not."""
    text = "".join(c if c.isprintable() else " " for c in str(value))[:200]
    return re.sub(r"([\\`*_\[\]<>|#])", r"\\\1", text)


def _cell(value: str) -> str:
    return f"`{value}`" if re.fullmatch(r"[\w./+-]+", value) else _plain(value)
