"""Every class of transformers that we convert, as a tiny checkpoint, and the proofs of each.

`make` makes the checkpoint of a row; the rows stand in dense.py, experts.py, recurrent.py, towers.py and encoders.py.
"""

from tests.interop.families.make import make as make
from tests.interop.families.row import Row as Row
from tests.interop.families.table import TABLE as TABLE
