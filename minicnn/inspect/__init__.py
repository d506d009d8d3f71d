"""Looking into a network: its layers as a table, its recorded values, its cut graphs."""

from .blocks import draw_blocks
from .facts import Fact, facts, ilsvrc_chart
from .memory import Memory, memory
from .record import record
from .severed import severed
from .summary import Summary, summary
from .trace import trace

__all__ = [
    "Fact", "Memory", "Summary", "draw_blocks", "facts", "ilsvrc_chart", "memory", "record", "severed", "summary",
    "trace",
]  # fmt: skip
