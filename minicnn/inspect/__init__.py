"""Looking into a network: stepping through it, drawing it, its layers as a table, what is wrong with it."""

from .anomaly import AnomalyError, detect_anomaly
from .blocks import draw_blocks
from .debug import Debugger, debug
from .explain import Explanation, explain
from .facts import Fact, facts, ilsvrc_chart
from .flow import FlowHistory, GradientFlow, gradient_flow, track_gradients
from .graph import Graph, graph
from .memory import Memory, memory
from .plan import Plan, plan
from .provenance import Provenance, backward_parts, provenance
from .record import record
from .severed import severed
from .statistics import Statistics, statistics
from .summary import Summary, summary
from .trace import trace

__all__ = [
    "AnomalyError", "Debugger", "Explanation", "Fact", "FlowHistory", "GradientFlow", "Graph", "Memory", "Plan",
    "Provenance", "Statistics", "Summary", "backward_parts", "debug", "detect_anomaly", "draw_blocks", "explain",
    "facts", "gradient_flow", "graph", "ilsvrc_chart", "memory", "plan", "provenance", "record", "severed",
    "statistics", "summary", "trace", "track_gradients",
]  # fmt: skip
