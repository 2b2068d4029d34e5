"""Which files hold the tensors of a checkpoint, and their tensors behind one mapping.

What Transformers would take comes first: the files of an index, or ``model.safetensors``. A folder without either may
have a whole set of files all the same: shards whose index was not downloaded, or one file of another name. PyTorch's
own files come last.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

from gguflike.checkpoint import elsewhere, files, recognize, strictjson
from gguflike.checkpoint.safetensors import INDEX, SINGLE, LazyTensor, read_header, same_values
from gguflike.errors import CheckpointError, counted

#: The key of config.json by which Transformers finds weights under another name.
NAMED = "transformers_weights"

#: How the names of files end that weights can be taken from: PyTorch's are pickles.
PICKLES = (".bin", ".pth", ".pt")
ENDINGS = (".safetensors", ".safetensors.index.json", ".bin.index.json", *PICKLES)

HEADERS = 8  # that are fetched at the same time

_SHARD = re.compile(r"(?P<stem>.*?)[-_.]?(?P<number>\d+)-of-(?P<total>\d+)(?P<rest>.*\.(safetensors|bin|pth|pt))")
_INDEX = re.compile(r".*\.(safetensors|bin)\.index(\..+)?\.json")
_PATH = re.compile(r"(\./)?\w[\w.+-]*(/\w[\w.+-]*)*")
# Files of these names are no model, or one with other names of tensors, whatever stands beside them.
_OTHERS = re.compile(
    r"(adapters?|adapter_model|consolidated|optimizer|scheduler|scaler|training_args|pytorch_lora_weights)\b.*"
    r"|(rng_state|random_states).*",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class Weights:
    """The ``files`` that were chosen, their ``tensors``, and what to tell the user of the choice."""

    files: tuple[Path, ...]
    tensors: Mapping[str, LazyTensor]
    notices: tuple[str, ...] = ()


class _Set(NamedTuple):
    """Files that belong together: the shards of one model, or a single file. ``missing`` names the first further one
    that is not there."""

    files: list[Path]
    missing: list[str]

    @property
    def name(self) -> str:
        return self.files[0].name


def has_any(folder: Path) -> bool:
    """Whether a folder holds weights under a name that is a model's, all of them or not."""
    named = any(files.present(folder / name) for name in (INDEX, SINGLE))
    return named or any(not _OTHERS.fullmatch(each.name) for each in _sets(folder))


def read(path: Path) -> dict[str, LazyTensor]:
    """The tensors of one file, of whatever format."""
    if not path.name.endswith(PICKLES):
        return read_header(path)
    from gguflike.checkpoint import pickled  # few have such files

    return pickled.read(path)


def of_folder(folder: Path, config: Mapping[str, Any]) -> Weights:
    """The weights of a folder.

    CheckpointError where files are missing, or where it is open which of several are the model's.
    """
    named = config.get(NAMED)
    if named is not None:
        return of_file(folder / _inside(named, folder / "config.json", NAMED, ENDINGS))
    index, single = folder / INDEX, folder / SINGLE
    if files.present(index):
        chosen = _listed(index)
        if SINGLE in chosen or not files.present(single):
            return _indexed(index, chosen)
        if any(files.present(folder / name) for name in chosen):
            raise CheckpointError(
                f"the folder holds both {SINGLE} and an index of other files",
                path=folder,
                remedy="remove whichever is stale, or name the file to take as the source",
            )
        return _read([single], notices=[f"{INDEX} is left aside: none of its files is there, but {SINGLE} is"])
    if files.present(single):
        return _read([single])
    return _unnamed(folder)


def of_file(path: Path) -> Weights:
    """The weights of one file: an index, a shard (with those that belong to it), or a file of all.

    CheckpointError where some are missing.
    """
    if _INDEX.fullmatch(path.name):
        return _indexed(path, _listed(path))
    shard = _SHARD.fullmatch(path.name)
    if shard is None:
        return _read([path])
    [found] = (each for each in _sets(path.parent) if path in each.files)
    return _read(_complete(found))


def _unnamed(folder: Path) -> Weights:
    """The weights of a folder with neither ``model.safetensors`` nor its index."""
    indices = [path for path in sorted(folder.glob("*.json")) if _INDEX.fullmatch(path.name)]
    indices = [path for path in indices if not _OTHERS.fullmatch(path.name)]
    if any(each.name.endswith(".safetensors") for each in files.inside(folder)):
        indices = [path for path in indices if not path.name.endswith(".bin.index.json")]
    if len(indices) == 1:
        listed = _indexed(indices[0], _listed(indices[0]))
        notice = f"the weights are those of {indices[0].name}: there is no {INDEX}"
        return replace(listed, notices=(notice, *listed.notices))
    sets = [each for each in _sets(folder) if not _OTHERS.fullmatch(each.name)]
    sets = [each for each in sets if not each.name.endswith(PICKLES)] or _pickled(sets)
    if not sets:
        recognize.check_folder(folder)
        raise CheckpointError(
            "no safetensors in the folder", path=folder, expected=f"{SINGLE} or {INDEX}", got="no weights"
        )
    for each in sets:
        _complete(each)
    found = [_read(each.files) for each in sets]
    tensors = {name: tensor for each in found for name, tensor in each.tensors.items()}
    if len(tensors) < sum(len(each.tensors) for each in found):
        raise CheckpointError(
            f"the folder holds several sets of weights and no {INDEX} that says which are the model's",
            path=folder,
            got=", ".join(each.name for each in sets[:5]),
            remedy="name the file to take as the source",
        )
    more = [f" and {len(each.files) - 1} more" if len(each.files) > 1 else "" for each in sets]
    names = ", ".join(each.name + rest for each, rest in zip(sets, more, strict=True))
    notice = f"the weights are those of {names}: there is neither {SINGLE} nor {INDEX}"
    said = (notice, *(other for each in found for other in each.notices))
    return Weights(tuple(path for each in found for path in each.files), tensors, said)


def _pickled(sets: list[_Set]) -> list[_Set]:
    """Those of the name that Transformers gives, where there are any, else all of PyTorch's files."""
    return [each for each in sets if each.name.startswith("pytorch_model")] or sets


def _sets(folder: Path) -> list[_Set]:
    """The files of weights in a folder, shards of one model together."""
    groups: dict[tuple[str, ...], dict[int, Path]] = {}
    named = [path for path in files.inside(folder) if path.name.endswith((".safetensors", *PICKLES))]
    for path in named:
        if path.name.startswith(".") or not files.present(path) or path.is_dir():  # "._x" is what macOS keeps of x
            continue
        shard = _SHARD.fullmatch(path.name)
        key = (shard["stem"], shard["total"], shard["rest"]) if shard else (path.name,)
        groups.setdefault(key, {})[int(shard["number"]) if shard else 1] = path
    return [_Set([each[n] for n in sorted(each)], _missing(key, each)) for key, each in groups.items()]


def _missing(key: tuple[str, ...], found: Mapping[int, Path]) -> list[str]:
    """The name of the first shard that ``found`` lacks, if it does. Some count from 0."""
    if len(key) == 1:
        return []
    path = next(iter(found.values()))
    wanted = range(int(key[1])) if 0 in found else range(1, int(key[1]) + 1)
    shard = _SHARD.fullmatch(path.name)
    assert shard is not None
    before, after = path.name[: shard.start("number")], path.name[shard.end("number") :]
    absent = (n for n in wanted if n not in found)
    return [f"{before}{n:0{len(shard['number'])}d}{after}" for n in islice(absent, 1)]


def _complete(found: _Set) -> list[Path]:
    if found.missing:
        raise _shard_missing(found.files[0].with_name(found.missing[0]))
    return found.files


def _shard_missing(path: Path, remedy: str = "") -> CheckpointError:
    files.present(path)  # or a link that points nowhere
    return CheckpointError(
        "shard is missing", path=path, remedy=remedy or "the download is incomplete; fetch the checkpoint again"
    )


def _listed(index: Path) -> dict[str, list[str]]:
    """The files that an index names, in the order in which Transformers reads them, with the tensors of each."""
    weight_map = strictjson.load(index).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        expected = "the name of each tensor, and of the file that it is in"
        raise CheckpointError("weight_map is missing or empty", path=index, field="weight_map", expected=expected)
    chosen: dict[str, list[str]] = {}
    for tensor, name in weight_map.items():
        chosen.setdefault(_inside(name, index, "weight_map"), []).append(tensor)
    return dict(sorted(chosen.items()))


def _inside(name: Any, source: Path, field: str, endings: tuple[str, ...] = (".safetensors", *PICKLES)) -> str:
    """A path below the folder and nothing else: an index must not reach out of it."""
    if not isinstance(name, str) or not name.endswith(endings) or not _PATH.fullmatch(name):
        raise CheckpointError(
            f"{field} names something other than a file of weights in the folder",
            path=source,
            field=field,
            got=repr(name)[:120],
        )
    return str(PurePosixPath(name))


def _indexed(index: Path, chosen: Mapping[str, list[str]]) -> Weights:
    """The tensors of the files that an index names: all that are in them, whatever the index says of each."""
    folder = index.parent
    missing = [name for name in chosen if not ((folder / name).is_file() or elsewhere.name_of(folder / name))]
    if missing:
        others = [each.name for each in _sets(folder) if not each.missing and len(missing) == len(chosen)]
        remedy = f"or the index is stale: name {others[0]} as the source to take it" if others else ""
        raise _shard_missing(folder / missing[0], f"the download is incomplete, {remedy}" if remedy else "")
    weights = _read([folder / name for name in chosen])
    absent = [name for names in chosen.values() for name in names if name not in weights.tensors]
    if absent:
        raise CheckpointError(
            f"{counted(len(absent), 'tensor')} of the index in no shard",
            path=index,
            tensor=absent[0][:200],
            remedy="get the shards and their index again, of the same revision",
        )
    return weights


def _tables(paths: Sequence[Path]) -> Iterable[dict[str, LazyTensor]]:
    """The tensors of each file; of files elsewhere, several headers are fetched at a time."""
    if not any(map(elsewhere.name_of, paths)):
        return map(read, paths)
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(HEADERS) as threads:
        return list(threads.map(read, paths))


def _read(paths: Iterable[Path], notices: Iterable[str] = ()) -> Weights:
    """The tensors of files. Of one that is in several with different values, the last is taken, as Transformers does,
    and said so."""
    chosen, said = tuple(paths), list(notices)
    tensors: dict[str, LazyTensor] = {}
    for path, table in zip(chosen, _tables(chosen), strict=True):
        for name, tensor in table.items():
            if name in tensors and not same_values(tensors[name], tensor):
                before = Path(tensors[name].path).name
                said.append(f"{name} is in {before} and, with other values, in {path.name}, from which it is taken")
            tensors[name] = tensor
    if not tensors:
        raise CheckpointError("there are no tensors in the file", path=chosen[0], remedy="get the file again")
    return Weights(chosen, tensors, tuple(said))
