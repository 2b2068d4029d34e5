"""All rows, by name."""

from __future__ import annotations

from collections.abc import Mapping

from tests.interop.families import dense, encoders, experts, recurrent, towers
from tests.interop.families.row import Row

TABLE: Mapping[str, Row] = {
    row.name: row for rows in (dense, experts, recurrent, towers, encoders) for row in rows.ROWS
}
