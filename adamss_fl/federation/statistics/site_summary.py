"""One site's figures for the comparison of sites before training (see ``preflight``).

What a summary tells of a site's patients: how many there are, how many have an event and for how long half of them are
followed (to the month), and means and standard deviations over all of them. A site with fewer patients than its policy
allows should send none.
"""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from adamss_fl import plain
from adamss_fl.errors import InputError
from adamss_fl.survival.curves import kaplan_meier
from adamss_fl.survival.endpoints import check_endpoints

MONTH_DAYS = 30.0
SMALLEST, LARGEST = 1e-9, 1e9
"""No spacing, SUV, volume or time of patients lies outside, in whatever unit it is mistaken for."""
Axes = tuple[float, float, float]


@dataclass(frozen=True)
class SiteSummary:
    """Figures of one site's patients.

    patients, events : of all its training patients. follow_up_days : median follow-up, see ``median_follow_up``.
    *_spacing_mm, *_spacing_sd_mm : mean and standard deviation of the voxel spacing along x, y and z; None where the
        site does not know it, as one that keeps resampled images alone.
    suv_mean, suv_sd, suv_p95 : of voxels inside the body: mean, spread, and a value that about 5 % of them exceed; None
        where too few patients have such voxels.
    tumour_ml, tumour_sd_ml, nodes : mean and spread of the tumour's volume, and mean number of nodes, of the patients
        with masks; None where none has, or too few have.
    missing : clinical column -> share of patients without a value; a column that the site lacks may be left out.
    Raises InputError for what no site can have.
    """

    site: str
    patients: int
    events: int
    follow_up_days: float | None
    pet_spacing_mm: Axes | None
    pet_spacing_sd_mm: Axes | None
    ct_spacing_mm: Axes | None
    ct_spacing_sd_mm: Axes | None
    suv_mean: float | None
    suv_sd: float | None
    suv_p95: float | None
    tumour_ml: float | None
    tumour_sd_ml: float | None
    nodes: float | None
    missing: Mapping[str, float]

    def __post_init__(self) -> None:
        suv, tumour = (self.suv_mean, self.suv_sd, self.suv_p95), (self.tumour_ml, self.tumour_sd_ml)
        spacings = {name: (getattr(self, f"{name}_mm"), getattr(self, f"{name}_sd_mm")) for name in _SPACINGS}
        above = [*(each for mean, _ in spacings.values() for each in mean or ()), self.suv_mean, self.suv_p95]
        spreads = [*(each for _, sd in spacings.values() for each in sd or ()), self.suv_sd, *tumour]
        spreads += [self.follow_up_days, self.nodes]
        if not 0 <= self.events <= self.patients or self.patients == 0:
            raise InputError(f"site {self.site!r}: {self.events} events of {self.patients} patients; count them again")
        fine = all(each is None or SMALLEST <= each <= LARGEST for each in above)
        if not (fine and all(each is None or 0 <= each <= LARGEST for each in spreads)):
            raise InputError(
                f"site {self.site!r}: a spacing, SUV, volume or time is negative, 0 or not finite, or too large; "
                "mend it"
            )
        together = {**spacings, "suv_mean, suv_sd and suv_p95": suv, "tumour_ml and tumour_sd_ml": tumour}
        for names, values in together.items():
            if len({value is None for value in values}) > 1:
                raise InputError(f"site {self.site!r}: {names} go together; give all or none")
        if not all(0 <= share <= 1 for share in self.missing.values()):
            raise InputError(f"site {self.site!r}: a share of missing values lies outside 0 to 1; mend it")

    @property
    def event_fraction(self) -> float:
        """Share of the patients with an event."""
        return self.events / self.patients

    def plain(self) -> dict[str, Any]:
        """JSON-able."""
        figures = {field.name: getattr(self, field.name) for field in fields(self)}
        lists = {name: list(value) for name, value in figures.items() if isinstance(value, tuple)}
        return figures | lists | {"missing": dict(self.missing)}

    @classmethod
    def from_plain(cls, given: Any) -> "SiteSummary":
        """The inverse of ``plain``; raises InputError for other keys, or what no site can have."""
        found = dict(plain.record(given, [field.name for field in fields(cls)], "site summary"))
        if not isinstance(found["site"], str) or not isinstance(found["missing"], Mapping):
            raise InputError("site summary: the site must be a text, and missing a mapping of column to share")
        what = f"summary of site {found['site']!r}"
        missing = {str(name): _number(share, f"{what}: missing") for name, share in found.pop("missing").items()}
        for name, value in found.items():
            if name in ("patients", "events"):
                found[name] = int(plain.counts(value, (), f"{what}: {name}"))
            elif value is None and name in _OPTIONAL:
                continue
            elif "spacing" in name:
                found[name] = tuple(plain.floats(value, (3,), f"{what}: {name}").tolist())
            elif name != "site":
                found[name] = _number(value, f"{what}: {name}")
        return cls(**found, missing=missing)


_SPACINGS = ("pet_spacing", "ct_spacing")
_OPTIONAL = tuple(field.name for field in fields(SiteSummary) if "None" in str(field.type))


def median_follow_up(time_days: ArrayLike, event: ArrayLike) -> float | None:
    """Median follow-up of (N,) patients in days, to the nearest 30, since the median itself is one patient's time.

    By the reverse Kaplan-Meier estimate, in which events censor the follow-up; None where it does not fall to one half.
    Source: Schemper and Smith, Controlled Clinical Trials 17:343 (1996). Raises InputError for bad endpoints.
    """
    times, events = check_endpoints(time_days, event)
    if times.size == 0:
        return None
    curve = kaplan_meier(times, ~events)
    over = np.flatnonzero(curve.survival <= 0.5)
    return round(float(curve.times[over[0]]) / MONTH_DAYS) * MONTH_DAYS if over.size else None


def _number(value: Any, what: str) -> float:
    return float(plain.floats(value, (), what))
