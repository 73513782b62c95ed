"""The order in which a site's patients are seen."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from adamss_fl.training.settings import Sampling


@dataclass(frozen=True)
class Batches:
    """Index batches over a site's training patients, every one of them full.

    patients : number of training patients.
    size : patients per batch, at most ``patients``.
    events : event indicator (0 or 1) per patient, for balanced batches; None gives uniform ones.
    sampling : ``without_replacement`` goes through the patients in newly shuffled passes and cuts the passes, laid end
        to end, into batches. After any number of batches all patients have therefore been seen equally often, up to one
        time, and a batch that spans two passes holds no patient twice. ``with_replacement`` draws every place of a
        batch anew, as the authors' released code does.

    With ``events`` every batch holds events and censored patients one to one, and the odd place goes to either class in
    turn. Each class then has passes of its own, so that a patient of the rarer class is seen more often. A patient is
    twice in a batch only where its class has fewer patients than its share of the batch. Where the site has one class
    only the batches are uniform, and :attr:`balanced` is False.
    """

    patients: int
    size: int
    events: Sequence[int] | None = None
    sampling: Sampling = "without_replacement"

    def __post_init__(self) -> None:
        if not 1 <= self.size <= self.patients:
            raise ValueError(f"a batch of {self.size} cannot be drawn from {self.patients} training patients")
        if self.events is not None and len(self.events) != self.patients:
            raise ValueError(f"{len(self.events)} events were given for {self.patients} patients")

    @property
    def balanced(self) -> bool:
        """Whether batches hold events and censored patients one to one."""
        return self.events is not None and 0 < sum(self.events) < self.patients

    def in_epochs(self, epochs: int) -> int:
        """Number of full batches in ``epochs`` passes: the fewest with as many places as the passes have patients."""
        return -(-epochs * self.patients // self.size)

    def draw(self, steps: int, generator: np.random.Generator) -> Iterator[list[int]]:
        """Yield ``steps`` batches of ``size`` patient indices each."""
        if not self.balanced:
            everyone = self._source(np.arange(self.patients), generator)
            for _ in range(steps):
                yield everyone.take(self.size)
            return
        events = np.asarray(self.events)
        classes = [self._source(np.flatnonzero(events == value), generator) for value in (0, 1)]
        odd_to = int(generator.integers(2))
        for _ in range(steps):
            shares = [self.size // 2, self.size // 2]
            shares[odd_to] += self.size % 2
            odd_to = 1 - odd_to
            yield [index for source, share in zip(classes, shares, strict=True) for index in source.take(share)]

    def _source(self, members: np.ndarray, generator: np.random.Generator) -> "_Source":
        return (_Passes if self.sampling == "without_replacement" else _Draws)(members, generator)


class _Source(Protocol):
    """Patients in the order in which batches take them."""

    def take(self, count: int) -> list[int]:
        """The next ``count`` patients, which go into one batch."""
        ...


class _Passes:
    """Newly shuffled passes over ``members``, laid end to end."""

    def __init__(self, members: np.ndarray, generator: np.random.Generator) -> None:
        self._members = members
        self._generator = generator
        self._rest: list[int] = []

    def take(self, count: int) -> list[int]:
        taken: list[int] = []
        while len(taken) < count:
            missing = count - len(taken)
            if not self._rest:
                self._rest = self._new_pass(taken, missing)
            taken += self._rest[:missing]
            self._rest = self._rest[missing:]
        return taken

    def _new_pass(self, batch: list[int], missing: int) -> list[int]:
        """A pass whose first ``missing`` patients are among those that ``batch``, not yet full, holds least often."""
        order = [int(index) for index in self._generator.permutation(self._members)]
        order.sort(key=batch.count)  # stable: patients that are held equally often stay shuffled
        rest = self._generator.permutation(np.array(order[missing:], dtype=np.int64))
        return order[:missing] + [int(index) for index in rest]


class _Draws:
    """Independent draws from ``members``."""

    def __init__(self, members: np.ndarray, generator: np.random.Generator) -> None:
        self._members = members
        self._generator = generator

    def take(self, count: int) -> list[int]:
        return [int(index) for index in self._generator.choice(self._members, count)]
