"""Which machine each site of a run computed on, from the run's own events."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from adamss_fl.federation.events import read_events
from adamss_fl.training.machine import read_machine


def machines_of(events: Path) -> dict[str, str]:
    """:func:`machines_in` of a run's ``events.jsonl``."""
    return machines_in(read_events(events))


def machines_in(events: Iterable[Mapping[str, Any]]) -> dict[str, str]:
    """Device and precision of each site, sorted by name: ``CPU, fp32``; where they changed, one after the other.

    Taken are those of a site's training, and of a site that has not trained those it introduced itself with. A site
    that does not say is left out.
    """
    introduced: dict[str, str] = {}
    trained: dict[str, list[str]] = {}
    for event in events:
        kind, site, figures = event.get("kind"), event.get("site"), event.get("figures")
        if kind not in ("site", "train") or not isinstance(site, str) or not isinstance(figures, Mapping):
            continue
        machine = read_machine(figures.get("machine"))
        if machine is None:
            continue
        if kind == "site":
            introduced[site] = str(machine)
        elif str(machine) not in trained.setdefault(site, []):
            trained[site].append(str(machine))
    found = introduced | {site: "; then ".join(used) for site, used in trained.items()}
    return dict(sorted(found.items()))


def machine_lines(machines: Mapping[str, str]) -> list[str]:
    """One line for all sites on machines of one kind, else a line a site; nothing where no site says."""
    kinds = set(machines.values())
    if len(kinds) == 1 and len(machines) > 1:
        return [f"Every site: {kinds.pop()}"]
    return [f"{site}: {machine}" for site, machine in machines.items()]
