"""Names of tensors as checkpoints have them, brought to those that a family's origins know.

A family knows each tensor by one name. People save models in wrappers (of compilers, of parallel training, of
adapters), as part of others, or without the prefix that Transformers puts before the base of a model; and beside
weights they save buffers.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping
from itertools import islice
from typing import TYPE_CHECKING, Any

from gguflike.families.origins import Origin
from gguflike.families.parts import Tensor

if TYPE_CHECKING:
    from gguflike.families.family import Family

# What wrappers put into names wherever they stand: torch.compile, FSDP, activation checkpointing, DeepSpeed, PEFT.
_WRAPPERS = re.compile(
    r"(?<![^.])(_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module|_forward_module|base_layer)\."
)
_NUMBER = re.compile(r"\d+")
_LONGEST, _DEEPEST = 100, 8  # characters and words of a prefix
#: Tensors that no model computes with: buffers, which it makes anew when it is loaded.
BUFFERS = re.compile(
    r"(.*\.)?(rotary_emb(_\w+)?\..*|rotary_pos_emb\.inv_freq|freqs_(cis|cos|sin)|position_ids|token_type_ids|masked_bias"
    r"|causal_mask|num_batches_tracked|_extra_state|total_(ops|params))"
)


def canonical_names(family: Family[Any], names: Collection[str]) -> dict[str, str]:
    """The names of a checkpoint's tensors -> what the family's origins call them."""
    if all(family.knows(name) for name in names):
        return {name: name for name in names}
    plain = {name: _WRAPPERS.sub("", name) for name in names}
    prefix = _wrapping_prefix(family, plain.values())
    return {name: _canonical(family, text.removeprefix(prefix)) for name, text in plain.items()}


def _canonical(family: Family[Any], name: str) -> str:
    """The name, with the prefix of the family's base where a model of the base alone was saved, or without it where it
    is before what is not of the base."""
    if family.knows(name):
        return name
    name = family.canonical(name)
    base = base_prefix(family)
    spelled = (name, base + name, name.removeprefix(base))
    return next((each for each in spelled if family.knows(each)), name)


def _wrapping_prefix(family: Family[Any], names: Collection[str]) -> str:
    """What stands before the names of a model that was saved as part of another one.

    Where that is before all names, it is what they share; else it is what stands before the name of the embedding.
    """
    shared, split = "", [name.split(".") for name in names]
    for parts in islice(zip(*split, strict=False), _DEEPEST):
        if any(family.knows(_canonical(family, name.removeprefix(shared))) for name in names):
            break
        if len(set(parts)) > 1 or len(shared) > _LONGEST:
            break
        shared += parts[0] + "."
    names = [name.removeprefix(shared) for name in names]
    [anchor, *_] = family.hf_names(Tensor("token_embd.weight", ()))
    if any(_canonical(family, name) == anchor for name in names):
        return shared
    endings = {"." + anchor, "." + anchor.removeprefix(base_prefix(family))}
    prefixes = {name[: -len(end) + 1] for name in names for end in endings if name.endswith(end)}
    # Of "a.model." and "a.", which both fit one name, the shorter leaves the prefix of the base.
    first, *others = sorted(prefixes) or [""]
    return shared + (first if all(each.startswith(first) for each in others) else "")


def base_prefix(family: Family[Any]) -> str:
    """What Transformers puts before the names of the base of a model: "model." of "model.layers.{i}."."""
    first, dot, rest = family.layers.partition(".")
    return first + dot if "{i}" not in first and rest.count(".") > 1 else ""


def masked(name: str) -> str:
    """A name with numbers of layers and experts alike."""
    return _NUMBER.sub("#", name)


def known_names(origins: Mapping[str, Origin], prefixes: Collection[str]) -> Iterator[str]:
    """The names, masked, of all tensors that origins may have behind these prefixes, however they are spelled."""
    for role, origin in origins.items():
        whole = role.endswith((".weight", ".bias"))
        for full in [role] if whole else [f"{role}.weight", f"{role}.bias"]:
            for prefix in prefixes:
                for spelled in _spellings(origin):
                    yield from map(masked, spelled.names(prefix, Tensor(full, (1, 1, 1))))


def _spellings(origin: Origin) -> Iterator[Origin]:
    choices: tuple[Origin, ...] = getattr(origin, "choices", ())
    if not choices:
        yield origin
    for choice in choices:
        yield from _spellings(choice)
