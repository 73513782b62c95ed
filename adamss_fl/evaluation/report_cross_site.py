"""The report's part on every model at every hospital, and on what each hospital gains from the federation."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from adamss_fl.errors import InputError
from adamss_fl.evaluation.cross_site import FEDERATED, FILE, LOCAL, cross_site
from adamss_fl.evaluation.report_answers import UNDEFINED, Gap, number
from adamss_fl.evaluation.report_arms import label_of_arm
from adamss_fl.evaluation.report_federated_inputs import p_value
from adamss_fl.evaluation.report_inputs import RunRecord

INTRO = (
    "Each row is a model, each column the test patients of one hospital: the C-index with its 95 % bootstrap interval, "
    "and the comparable pairs that it rests on. A hospital’s own model on its own patients is marked."
)
GAINS_NOTE = (
    "Gain: C-index of the federated model minus that of the hospital’s own, the same resampled patients for both. "
    "The verdict is “helped” or “harmed” only where p, adjusted by Holm’s method for as many hospitals as have one, is "
    "0.05 or less; “cannot be told” does not mean that there is no difference. Could be seen: the "
    "difference that these patients would show in 80 of 100 such studies."
)


@dataclass(frozen=True)
class Cell:
    """A model's figures at one hospital; ``own`` marks a hospital's own model at home."""

    c_index: str
    small: str
    own: bool = False


@dataclass(frozen=True)
class MatrixRow:
    """One model at every hospital; ``main`` marks the federated one."""

    label: str
    colour: str
    cells: list[Cell]
    main: bool = False


@dataclass(frozen=True)
class SiteGain:
    """What one hospital gains; verdict : after Holm's correction."""

    site: str
    pairs: str
    gain: str
    p: str
    detectable: str
    verdict: str
    note: str


@dataclass(frozen=True)
class CrossSite:
    """What the page shows; where ``reason`` is not empty, it says why there is no matrix."""

    sites: list[str]
    rows: list[MatrixRow]
    gains: list[SiteGain]
    note: str
    reason: str = ""
    intro: str = INTRO
    gains_note: str = GAINS_NOTE

    def with_verdict(self, verdict: str) -> list[str]:
        """The hospitals that have this verdict."""
        return [gain.site for gain in self.gains if gain.verdict == verdict]


def cross_site_section(record: RunRecord, colours: Mapping[str, str]) -> CrossSite | None:
    """The section of a comparison, with ``cross_site.json`` written beside the page; colours : of each arm by name.

    None for a run that is no comparison, or one that has no federated arm or not every arm's predictions.
    """
    if record.comparison is None or record.arm(FEDERATED) is None:
        return None
    if any(arm.predictions is None for arm in record.arms):
        return None
    try:
        found = cross_site(record.folder)
    except InputError as error:
        return CrossSite([], [], [], "", reason=str(error).replace(f"{record.folder}/", ""))
    order = [arm.name for arm in record.arms]
    names = [*order, *(name for name in found["matrix"] if name not in order)]
    note = f"Every number here is in {FILE} beside this page, to all digits."
    if found["left_out"]:
        note += f" Without predictions, and so left out: {', '.join(found['left_out'])}."
    return CrossSite(
        found["sites"],
        [_row(name, found["matrix"][name], colours.get(name, "")) for name in names],
        [_gain(site, each) for site, each in found["gains"].items()],
        note,
    )


def _row(name: str, figures: Mapping[str, Mapping[str, Any]], colour: str) -> MatrixRow:
    cells = [_cell(each, own=name == LOCAL + site) for site, each in figures.items()]
    return MatrixRow(label_of_arm(name), colour, cells, name == FEDERATED)


def _cell(figures: Mapping[str, Any], own: bool) -> Cell:
    if figures["c_index"] is None:
        return Cell(UNDEFINED, figures["note"], own)
    low, high = figures["ci_low"], figures["ci_high"]
    interval = "no interval" if low is None or high is None else f"{number(low)} to {number(high)}"
    return Cell(number(figures["c_index"]), f"{interval} · {figures['comparable_pairs']:,} pairs", own)


def _gain(site: str, figures: Mapping[str, Any]) -> SiteGain:
    gap = Gap.read(figures)
    return SiteGain(
        site=site,
        pairs=f"{figures['comparable_pairs']:,}",
        gain=UNDEFINED if gap is None else gap.short,
        p=UNDEFINED if figures["p_holm"] is None else p_value(figures["p_holm"]),
        detectable=number(figures["detectable"]),
        verdict=figures["verdict_holm"],
        note=figures["note"],
    )
