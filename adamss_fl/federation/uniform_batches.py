"""Sites whose batches should have been balanced and were uniform, since their training patients are of one class."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any


def uniform_lines(events: Iterable[Mapping[str, Any]]) -> list[str]:
    """A sentence for each site and stage of a run's ``events`` that fell back to uniform batches, sorted.

    A site says so in the figure ``balanced`` of a training reply. Which class its patients are of is what it said
    before training, in the counts of ``describe``; where the log lacks these, they are said to be of one class.
    """
    counts: dict[str, Mapping[str, Any]] = {}
    stage = "stage II"
    lines: set[str] = set()
    for event in events:
        site, figures = event.get("site"), event.get("figures") or {}
        if event.get("kind") == "site":
            counts[str(site)] = figures
        elif event.get("kind") == "round_start":
            stage = "the joint stage" if "joint" in event.get("stages", ()) else "stage II"
        elif event.get("kind") == "train" and figures.get("balanced") is False:
            lines.add(f"{stage} at {site} drew uniform batches: its training patients {_are(counts.get(str(site)))}")
    return sorted(lines)


def _are(counts: Mapping[str, Any] | None) -> str:
    try:
        patients, events = (counts or {})["patients"]["train"], (counts or {})["events"]["train"]
    except (KeyError, TypeError):
        return "are all censored, or all had the event"
    return "are all censored" if events == 0 and patients else "all had the event"
