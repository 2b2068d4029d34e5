"""From the parts of a model to ops: one module per kind of part, none for a family.

`check` says whether the ops can compute a part, `new_state` makes what it keeps from token to token (and
`bytes_per_position` says how much that is), `emit` adds its ops to a schedule. Each dispatches on the part's type.
"""

from gguflike.runner.parts import attention as attention
from gguflike.runner.parts import feed_forward as feed_forward
from gguflike.runner.parts.emit import bytes_per_position as bytes_per_position
from gguflike.runner.parts.emit import check as check
from gguflike.runner.parts.emit import emit as emit
from gguflike.runner.parts.emit import new_state as new_state
