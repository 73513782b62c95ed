"""Sites side by side before training: what is likely to be wrong, from one summary per site."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from adamss_fl.errors import InputError
from adamss_fl.federation.statistics.site_summary import SiteSummary

__all__ = ["Finding", "PreflightSettings", "SiteSummary", "findings"]

AXES = ("x", "y", "z")
BODY_WEIGHTS_KG = (40.0, 150.0)
OTHER_UNIT = 300.0
"""A ratio that no scanner explains: Bq/ml is some thousands of times SUV, and units differ by a thousand."""


@dataclass(frozen=True)
class PreflightSettings:
    """From where on a difference is worth a word.

    batch_size : patients per training step. few_events : fewer are few. p_value : of event fractions. follow_up :
    shorter than this share of the others' median. spacing : relative difference. suv, tumour : ratio, or its inverse.
    missing : share of a column. largest_suv : no body has 5 % of its voxels there or above; where the sites' SUV are
    clipped, the clip, if that is so high. masks : whether the run learns from them.
    """

    batch_size: int = 2
    few_events: int = 10
    p_value: float = 0.001
    follow_up: float = 0.5
    spacing: float = 0.25
    suv: float = 2.0
    tumour: float = 3.0
    missing: float = 0.5
    largest_suv: float = 100.0
    masks: bool = True


@dataclass(frozen=True)
class Finding:
    """One remark on one site: an error is to be mended before training, a warning to be known. One line each."""

    code: str
    severity: Literal["warning", "error"]
    site: str
    message: str
    remedy: str


def findings(summaries: Sequence[SiteSummary], settings: PreflightSettings | None = None) -> tuple[Finding, ...]:
    """What is worth a word before training, errors first, then in the order of the sites.

    A figure is compared with the median of all sites, or with two sites with the other one's. Codes: ``no_events``,
    ``few_events``, ``event_fraction``, ``short_follow_up``, ``small_site``, ``spacing``, ``suv_scale``,
    ``tumour_volume``, ``no_masks``, ``column_absent``, ``column_sparse``, ``same_summary``.
    Raises InputError where there is no summary, or two of one site.
    """
    names = [summary.site for summary in summaries]
    if not names or len(set(names)) < len(names):
        raise InputError("preflight: no summary, or two of one site; give one of each site")
    limits = settings or PreflightSettings()
    found: list[Finding] = []
    for place, site in enumerate(summaries):
        others = [*summaries[:place], *summaries[place + 1 :]]
        for check in (_events, _follow_up, _spacing, _suv, _tumour, _columns):
            found += check(site, others, limits)
        if site.patients < limits.batch_size:
            text = f"{site.patients} patients do not fill a batch of {limits.batch_size}"
            found.append(Finding("small_site", "error", site.site, text, "lower batch_size, or leave the site out"))
        twin = next((each.site for each in summaries[:place] if replace(each, site=site.site) == site), None)
        if twin is not None:
            text = f"all figures are those of {twin}"
            found.append(Finding("same_summary", "error", site.site, text, "check that both do not read one folder"))
    return tuple(sorted(found, key=lambda finding: finding.severity))


def _usual(own: float, others: Sequence[float]) -> float | None:
    """The median of all, or the other one's where there is no majority; None where there is no other."""
    return (float(np.median([own, *others])) if len(others) > 1 else others[0]) if others else None


def _events(site: SiteSummary, others: Sequence[SiteSummary], limits: PreflightSettings) -> Iterator[Finding]:
    if site.events == 0:
        text = f"none of {site.patients} patients has an event"
        yield Finding("no_events", "error", site.site, text, "check that 1 codes an event, or leave the site out")
        return
    if site.events < limits.few_events:
        text = f"{site.events} events, fewer than {limits.few_events}"
        yield Finding("few_events", "warning", site.site, text, "trust no C-index of this site alone; add follow-up")
    usual = _usual(site.event_fraction, [other.event_fraction for other in others])
    if usual is None:
        return
    patients, events = sum(other.patients for other in others), sum(other.events for other in others)
    rest = events / patients
    differs = _two_proportions(site.events, site.patients, events, patients) < limits.p_value
    if differs and abs(site.event_fraction - usual) > abs(rest - usual):  # not where the rest holds the odd one
        text = f"{site.event_fraction:.0%} have an event, {rest:.0%} elsewhere (p < {limits.p_value:g})"
        yield Finding("event_fraction", "warning", site.site, text, "check the endpoint's definition and coding")


def _two_proportions(events: int, patients: int, other_events: int, other_patients: int) -> float:
    """p of the two-sided two-proportion z-test with the pooled variance; 1 where there is none."""
    pooled = (events + other_events) / (patients + other_patients)
    variance = pooled * (1 - pooled) * (1 / patients + 1 / other_patients)
    difference = events / patients - other_events / other_patients
    return math.erfc(abs(difference) / math.sqrt(2 * variance)) if variance > 0 else 1.0


def _follow_up(site: SiteSummary, others: Sequence[SiteSummary], limits: PreflightSettings) -> Iterator[Finding]:
    known = [other.follow_up_days for other in others if other.follow_up_days is not None]
    if site.follow_up_days is None or not known:
        return
    rest = float(np.median(known))
    if site.follow_up_days < limits.follow_up * rest:
        text = f"median follow-up of {site.follow_up_days:.0f} days, {rest:.0f} elsewhere"
        yield Finding("short_follow_up", "warning", site.site, text, "check that times are in days; update the table")


def _spacing(site: SiteSummary, others: Sequence[SiteSummary], limits: PreflightSettings) -> Iterator[Finding]:
    for modality in ("pet", "ct"):
        name = f"{modality}_spacing_mm"
        own = getattr(site, name)
        known = [each for each in (getattr(other, name) for other in others) if each is not None]
        if own is None:
            continue
        usual = [_usual(own[k], [each[k] for each in known]) for k in range(3)]
        apart = [0.0 if each is None else own[k] / each - 1 for k, each in enumerate(usual)]
        worst = max(range(3), key=lambda k: abs(apart[k]))
        if abs(apart[worst]) > limits.spacing:
            text = (
                f"{modality.upper()} spacing along {AXES[worst]} is {own[worst]:.3g} mm, {apart[worst]:+.0%} from the "
                f"usual {usual[worst]:.3g} mm"
            )
            yield Finding("spacing", "warning", site.site, text, "check the import; train on one common grid")


def _suv(site: SiteSummary, others: Sequence[SiteSummary], limits: PreflightSettings) -> Iterator[Finding]:
    remedy = "import the PET again in SUVbw, with the patients' weight and injected dose"
    if site.suv_mean is None or site.suv_p95 is None:
        return
    known = [(other.suv_mean, other.suv_p95) for other in others if other.suv_mean and other.suv_p95]
    peers = [(mean, p95) for mean, p95 in known if p95 < limits.largest_suv]
    if not peers:
        if site.suv_p95 >= limits.largest_suv:
            text = f"SUV 95th percentile of {site.suv_p95:.3g}: looks like Bq/ml, not SUV"
            yield Finding("suv_scale", "error", site.site, text, remedy)
        return
    ratios = {}
    for place, (label, own) in enumerate((("mean", site.suv_mean), ("95th percentile", site.suv_p95))):
        ratios[f"SUV {label} of {own:.3g}"] = own / (_usual(own, [peer[place] for peer in peers]) or own)
    figure, ratio = max(ratios.items(), key=lambda item: abs(math.log(item[1])))
    times = max(ratio, 1 / ratio)
    hint = ""
    if times >= OTHER_UNIT or site.suv_p95 >= limits.largest_suv:
        hint = ": looks like Bq/ml, or a dose or weight in another unit, not SUV"
    elif BODY_WEIGHTS_KG[0] <= times <= BODY_WEIGHTS_KG[1]:
        hint = ": about a body weight in kg, as of Bq/ml not normalised by it, not SUV"
    if hint or times > limits.suv:
        text = f"{figure}, {ratio:.3g} times the usual{hint}"
        yield Finding("suv_scale", "error" if hint else "warning", site.site, text, remedy)


def _tumour(site: SiteSummary, others: Sequence[SiteSummary], limits: PreflightSettings) -> Iterator[Finding]:
    known = [other.tumour_ml for other in others if other.tumour_ml is not None]
    if site.tumour_ml is None:
        if not limits.masks:
            return
        severity: Literal["warning", "error"] = "warning" if known else "error"
        text, remedy = "no patient has a mask, or too few to tell", "contour some, or train the segmentation elsewhere"
        yield Finding("no_masks", severity, site.site, text, remedy)
        return
    usual = _usual(site.tumour_ml, known)
    if usual and not 1 / limits.tumour <= site.tumour_ml / usual <= limits.tumour:
        text = f"mean tumour volume of {site.tumour_ml:.3g} ml, {site.tumour_ml / usual:.2g} times the usual"
        yield Finding("tumour_volume", "warning", site.site, text, "check the masks' labels and what was contoured")


def _columns(site: SiteSummary, others: Sequence[SiteSummary], limits: PreflightSettings) -> Iterator[Finding]:
    for column in sorted({name for each in (site, *others) for name in each.missing}):
        share = site.missing.get(column, 1.0)
        if share >= 1:
            nowhere = all(other.missing.get(column, 1.0) >= 1 for other in others)
            text, remedy = f"column {column!r} has no value", "fill it, or take it out of the clinical columns"
            yield Finding("column_absent", "error" if nowhere else "warning", site.site, text, remedy)
        elif share > limits.missing:
            text = f"column {column!r} is missing in {share:.0%} of the patients"
            yield Finding("column_sparse", "warning", site.site, text, "fill it from the records, or leave it out")
