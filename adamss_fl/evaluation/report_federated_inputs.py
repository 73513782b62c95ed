"""The ``federated`` part of a run's ``metrics.json``, read once for the report; what is no figure has a reason."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from adamss_fl.evaluation.report_inputs import finite

ONE_TIME_BIN = "the hospitals’ counts have one bin of follow-up"
_YEAR, _MONTH = 365.25, 365.25 / 12


@dataclass(frozen=True)
class Part:
    """One figure; ``reason`` where there is none; ``left_out`` : sites without a part in it, and why."""

    values: Mapping[str, Any]
    reason: str | None
    left_out: Mapping[str, str]

    @classmethod
    def read(cls, given: object) -> Part:
        """From the JSON of a figure, which may be absent or only a reason."""
        if not isinstance(given, Mapping):
            return cls({}, "not evaluated", {})
        told = given.get("left_out")
        left_out = {str(site): str(why) for site, why in told.items()} if isinstance(told, Mapping) else {}
        reason = None if given.get("reason") is None else str(given["reason"])
        if reason is not None and left_out:
            reason += f" ({'; '.join(sorted(set(left_out.values())))})"
        return cls(given, reason, left_out)

    def number(self, name: str) -> float | None:
        """A number; None where it is absent, null or not finite."""
        return finite(self.values.get(name))

    def series(self, name: str) -> tuple[float | None, ...]:
        """A list of numbers, None for each that is null or not finite; empty where there is no list."""
        given = self.values.get(name)
        return tuple(finite(value) for value in given) if isinstance(given, (list, tuple)) else ()

    def part(self, name: str) -> Part:
        """A figure inside this one."""
        return Part.read(self.values.get(name))


@dataclass(frozen=True)
class Federated:
    """Figures over all sites' test patients. absent : sites of the run that neither count nor say why not."""

    whole: Part
    sites: tuple[str, ...]
    excluded: Mapping[str, str]
    absent: tuple[str, ...]

    @classmethod
    def read(cls, metrics: Mapping[str, Any]) -> Federated | None:
        """From ``metrics.json``; None for a run that has no such figures, as older ones."""
        given = metrics.get("federated")
        if not isinstance(given, Mapping):
            return None
        sites = tuple(str(site) for site in given.get("sites") or ())
        told = given.get("excluded")
        excluded = {str(site): str(why) for site, why in told.items()} if isinstance(told, Mapping) else {}
        named = metrics.get("sites")
        members = [str(site) for site in named] if isinstance(named, (list, tuple)) else []
        absent = tuple(sorted(set(members) - set(sites) - set(excluded)))
        return cls(Part.read(given), sites, excluded, absent)

    @property
    def reason(self) -> str | None:
        """Why there is no figure at all; None where there are some."""
        if self.whole.reason is not None:
            return self.whole.reason
        return None if self.sites else "no hospital has test patients whose tables count"

    def count(self, name: str) -> int | None:
        """A whole number of the whole."""
        value = self.whole.number(name)
        return None if value is None else int(value)

    def part(self, name: str) -> Part:
        """A figure by name; what is missing since counts have one bin of follow-up says that as its reason."""
        found = self.whole.part(name)
        steps = self.whole.part("survival").part("all").series("edges_days")
        coarse = len(steps) < 2 and found.reason is not None
        return replace(found, reason=ONE_TIME_BIN) if coarse else found

    @property
    def people(self) -> str:
        """``6,000 test patients``."""
        return f"{self.count('patients') or 0:,} test patients"

    @property
    def hospitals(self) -> str:
        """``3 hospitals``."""
        return f"{len(self.sites)} hospital" + ("s" if len(self.sites) != 1 else "")


def duration(days: float | None) -> str:
    """Days in the unit that people use: ``3.2 years``, ``14 months`` below two years, days below two months."""
    if days is None:
        return "not reached"
    if days >= 2 * _YEAR:
        return f"{days / _YEAR:.1f} years"
    return f"{days / _MONTH:.0f} months" if days >= 2 * _MONTH else f"{days:.0f} days"


def p_value(value: float | None) -> str:
    """``p = 0.043``; ``p < 0.001`` where it is smaller."""
    if value is None:
        return "no p-value"
    return "p < 0.001" if value < 0.001 else f"p = {value:.3f}"
