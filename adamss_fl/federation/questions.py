"""Queries put to all sites: the answers that count, and why the others do not."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from adamss_fl import plain
from adamss_fl.errors import InputError
from adamss_fl.federation.messages import Reply

Ask = Callable[[Mapping[str, Any]], Sequence[Reply]]
"""Sends a query's settings to all sites and gives the replies that count, sorted by site."""
Answer = TypeVar("Answer")
Read = Callable[[Mapping[str, Any], str, int], Answer]
"""Makes an answer of (figures, site, its training patients); raises InputError for what no patients can have."""

NO_ANSWER = "no answer: it is absent, or its policy forbids the query"
TOO_FEW = "fewer training patients than its minimum cell count"


@dataclass(frozen=True)
class Asked(Generic[Answer]):
    """The answers to one query by site, in the order of the names, and the reasons for those that do not count."""

    answers: dict[str, Answer]
    left_out: dict[str, str]


@dataclass(frozen=True)
class Questions:
    """ask : sends a query's settings to all sites and gives the replies that count; sites : whose answers are."""

    ask: Ask
    sites: tuple[str, ...]

    def put(self, query: Mapping[str, Any], read: Read[Answer]) -> Asked[Answer]:
        """Ask all sites; answers that ``read`` refuses, or of none of ``sites``, do not count. Raises QuorumLost."""
        answers: dict[str, Answer] = {}
        left_out = dict.fromkeys(self.sites, NO_ANSWER)
        for reply in self.ask(query):
            if reply.site not in self.sites:
                continue
            try:
                patients = int(plain.counts(reply.figures.get("patients"), (), "patients"))
                if set(reply.figures) <= {"patients", "least"}:
                    raise InputError(TOO_FEW)
                answers[reply.site] = read(reply.figures, reply.site, patients)
            except InputError as error:
                left_out[reply.site] = str(error)
        return Asked(
            dict(sorted(answers.items())), {site: why for site, why in left_out.items() if site not in answers}
        )
