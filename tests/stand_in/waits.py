"""The calls in which a GPU would make the host wait, counted."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field


@dataclass
class Waits:
    """What made the host wait, in order, for example ``_local_scalar_dense`` or ``copy to the host``."""

    reasons: list[str] = field(default_factory=list)

    def mark(self) -> int:
        """How many there have been."""
        return len(self.reasons)


_counting: list[Waits] = []


@contextmanager
def count_waits() -> Iterator[Waits]:
    """Count within the block."""
    waits = Waits()
    _counting.append(waits)
    try:
        yield waits
    finally:
        _counting.remove(waits)


def waited(reason: str) -> None:
    """The host waits."""
    for waits in _counting:
        waits.reasons.append(reason)
