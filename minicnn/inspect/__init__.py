"""Looking into a network: recorded values and cut graphs."""

from .record import record
from .severed import severed

__all__ = ["record", "severed"]
