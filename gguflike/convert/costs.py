"""What types cost tensors, as far as it is measured: a file with a line for each tensor, which outlives a run that was
cut off.

A line that was cut off ends the file. Costs are as exact as they were measured.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path

Costs = Mapping[str, float]
"""What each type costs, by its name."""
_DONE = ""  # in place of a tensor's name


class Measured(Mapping[str, Costs]):
    """Costs by tensor, in the file at ``path``, which need not exist."""

    def __init__(self, path: Path) -> None:
        self._path, self._found = path, dict[str, Costs]()
        self.complete = False  # whether all that could be measured is
        whole = 0
        for line in path.read_bytes().splitlines(keepends=True) if path.exists() else ():
            try:
                said = json.loads(line)
                name, costs = said["tensor"], {str(type): float(cost) for type, cost in said["costs"].items()}
            except (ValueError, KeyError, TypeError, AttributeError):
                break
            if not line.endswith(b"\n"):
                break
            self.complete = self.complete or name == _DONE
            self._found[name] = costs
            whole += len(line)
        self._found.pop(_DONE, None)
        if path.exists():
            with path.open("r+b") as file:
                file.truncate(whole)

    def add(self, name: str, costs: Costs) -> None:
        """Note what types cost a tensor."""
        with self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"tensor": name, "costs": dict(costs)}) + "\n")
        self._found[name] = dict(costs)

    def finish(self) -> None:
        """Note that all is measured."""
        self.add(_DONE, {})
        self._found.pop(_DONE)
        self.complete = True

    def __getitem__(self, name: str) -> Costs:
        return self._found[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._found)

    def __len__(self) -> int:
        return len(self._found)
