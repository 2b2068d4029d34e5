"""How long work tells how far it is: the one callback of the library."""

from __future__ import annotations

from collections.abc import Callable

Progress = Callable[[int, int, str], None]
"""Called with how much is done, how much there is in all (bytes, unless a function says otherwise), and a description
of what is being done."""

COMPILING = "compiling kernels"
"""The description while kernels are compiled, which are then what is counted. They are kept for the next time."""

FETCHING = "fetching "
"""How the description begins while a file is fetched from elsewhere; its name follows."""

CALIBRATING = "calibrating "
"""How the description begins while a model runs on text to be calibrated; what is done is then no number of bytes."""
