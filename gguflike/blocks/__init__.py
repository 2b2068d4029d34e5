"""Block types: the table, and the readable numpy reference of each codec."""

from gguflike.blocks.spec import BlockFormat, Field
from gguflike.blocks.table import FORMATS, format_by_id, format_by_name

__all__ = ["FORMATS", "BlockFormat", "Field", "format_by_id", "format_by_name"]
