"""The order in which a site's patients are seen."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Batches:
    """Index batches over a site's training patients.

    size : largest batch; an epoch's batches differ by at most one patient, so that none is left out.
    events : event indicator (0 or 1) per patient, for balanced batches; None gives uniform ones.
    patients : number of training patients.

    With ``events`` every batch holds events and censored patients one to one (an odd place goes to either in turn); an
    epoch still draws as many patients as the site has, so the rarer class is seen more often. Where the site has one
    class only the batches are uniform, and :attr:`balanced` is False.
    """

    patients: int
    size: int
    events: Sequence[int] | None = None

    def __post_init__(self) -> None:
        if not 1 <= self.size <= self.patients:
            raise ValueError(f"a batch of {self.size} cannot be drawn from {self.patients} training patients")
        if self.events is not None and len(self.events) != self.patients:
            raise ValueError(f"{len(self.events)} events were given for {self.patients} patients")

    @property
    def balanced(self) -> bool:
        """Whether batches hold events and censored patients one to one."""
        return self.events is not None and 0 < sum(self.events) < self.patients

    @property
    def per_epoch(self) -> int:
        """Number of batches in one pass."""
        return -(-self.patients // self.size)

    def draw(self, steps: int, generator: np.random.Generator) -> Iterator[list[int]]:
        """Yield ``steps`` batches of patient indices, pass after pass, each pass newly shuffled."""
        done = 0
        while done < steps:
            order = self._balanced_order(generator) if self.balanced else generator.permutation(self.patients)
            for batch in np.array_split(order, self.per_epoch):
                if done == steps:
                    return
                yield [int(index) for index in batch]
                done += 1

    def _balanced_order(self, generator: np.random.Generator) -> np.ndarray:
        """One pass in which events and censored patients alternate, the rarer class repeated."""
        events = np.asarray(self.events)
        length = -(-self.patients // 2)
        streams = [_cycle(np.flatnonzero(events == value), length, generator) for value in (1, 0)]
        first = int(generator.integers(2))
        order = np.empty(2 * length, dtype=np.int64)
        order[0::2], order[1::2] = streams[first], streams[1 - first]
        return order[: self.patients]


def _cycle(members: np.ndarray, length: int, generator: np.random.Generator) -> np.ndarray:
    """``length`` members: whole shuffled rounds of all of them, then part of one."""
    rounds = -(-length // len(members))
    return np.concatenate([generator.permutation(members) for _ in range(rounds)])[:length]
