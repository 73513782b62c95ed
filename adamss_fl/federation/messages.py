"""What passes between the server and a site, free of any transport.

An :class:`Instruction` goes out, a :class:`Reply` or an :class:`Absence` comes back. :class:`Sites` is the set of sites
as the server sees it; ``LocalSites`` (this process) and ``server`` (Flower's Grid) implement it.
"""

import errno
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from adamss_fl.errors import InputError, MachineError

Weights = dict[str, NDArray[Any]]
"""Tensors by their state-dict name. Never 0-d: a scalar buffer travels with shape (1,)."""

Tensors = Mapping[str, NDArray[Any]]
"""The same to read; looking one up may fetch it from disk (see ``federation.spool``)."""

Kind = Literal["describe", "statistics", "train", "evaluate"]


@dataclass(frozen=True)
class Instruction:
    """One order to every site.

    run, round, attempt : recognise late and duplicate replies; all three come back in the reply.
    settings : JSON-able mapping; which keys depends on ``kind`` (see ``federation.site``).
    weights : the global model, where the kind needs one.
    """

    kind: Kind
    run: str
    round: int
    attempt: int
    settings: Mapping[str, Any] = field(default_factory=dict)
    weights: Weights | None = None


@dataclass(frozen=True)
class Reply:
    """A site's answer: figures over at least a whole split of patients (JSON-able), and weights after training."""

    kind: Kind
    site: str
    run: str
    round: int
    attempt: int
    figures: Mapping[str, Any] = field(default_factory=dict)
    weights: Tensors | None = None


@dataclass(frozen=True)
class Absence:
    """A site that does not count in a round.

    cause : a code, for example ``deadline``, ``site_error``, ``unreachable``, ``refused_reply``, ``stale_reply``.
    detail : the server's own finding, for example a tensor's name; never text written by the site.
    """

    site: str
    cause: str
    detail: str = ""


@dataclass(frozen=True)
class Collected:
    """The outcome of one broadcast: replies sorted by site name, and who is absent and why."""

    replies: tuple[Reply, ...]
    absences: tuple[Absence, ...]


class SiteFailure(Exception):
    """A site could not do what it was told. Only ``code`` crosses the wire; the reason is logged at the site."""

    def __init__(self, code: str) -> None:
        super().__init__(code)
        self.code = code


class PolicyRefusal(SiteFailure):
    """A site's own policy forbids it; the reason is in the site's log already."""


def failure_code(failure: Exception) -> str:
    """What the server is told of an exception at a site: its own code, or one of the three below."""
    if isinstance(failure, (SiteFailure, MachineError)):
        return failure.code
    if isinstance(failure, OSError) and failure.errno in (errno.ENOSPC, errno.EDQUOT):
        return "disk_full"
    return "bad_input" if isinstance(failure, InputError) else "site_error"


class Sites(Protocol):
    """The sites of a federation as the server sees them."""

    @property
    def names(self) -> tuple[str, ...]:
        """Names of all sites, sorted."""
        ...

    def broadcast(self, instruction: Instruction, deadline_seconds: float | None = None) -> Collected:
        """Send one instruction to every site and collect answers until all are in or the deadline has passed."""
        ...


def as_wire(weights: Tensors) -> Weights:
    """Copy of ``weights`` with scalars as shape (1,) and contiguous memory, in name order."""
    return {name: np.ascontiguousarray(np.atleast_1d(weights[name])) for name in sorted(weights)}
