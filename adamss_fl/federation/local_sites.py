"""Sites in this process: centralized training (one site), the local-only arms, and tests."""

import logging
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Protocol

from adamss_fl.federation.messages import Absence, Collected, Instruction, Reply, SiteFailure
from adamss_fl.federation.spool import put_on_disk

_LOG = logging.getLogger(__name__)


class Handler(Protocol):
    """What :class:`LocalSites` needs of a site."""

    name: str

    def handle(self, instruction: Instruction) -> Reply:
        """Answer, or raise SiteFailure."""
        ...


class LocalSites:
    """Sites asked one after the other, without a transport.

    A deadline has no meaning here, since a call cannot be cut short: it is accepted and not used. A defect in a site
    (any exception but SiteFailure) is not caught: in one process it is the caller's own.

    spool : folder for the weights in replies while a round is collected; None keeps them in memory.
    """

    def __init__(self, sites: Sequence[Handler], spool: Path | None = None) -> None:
        self._spool = spool
        self._sites = tuple(sorted(sites, key=lambda site: site.name))
        names = [site.name for site in self._sites]
        if len(set(names)) != len(names):
            raise ValueError(f"site names must differ: {names}")

    @property
    def names(self) -> tuple[str, ...]:
        """Names of all sites, sorted."""
        return tuple(site.name for site in self._sites)

    def broadcast(self, instruction: Instruction, deadline_seconds: float | None = None) -> Collected:
        """Ask every site in the order of the names."""
        replies: list[Reply] = []
        absences: list[Absence] = []
        for site in self._sites:
            try:
                reply = site.handle(instruction)
            except SiteFailure as failure:
                _LOG.warning("%s: %s: %s", site.name, failure.code, failure.__cause__)
                absences.append(Absence(site.name, failure.code))
                continue
            if self._spool is not None and reply.weights is not None:
                reply = replace(reply, weights=put_on_disk(reply.weights, self._spool))
            replies.append(reply)
        return Collected(tuple(replies), tuple(absences))
