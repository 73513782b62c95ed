"""Every model of a comparison on every site's test patients, and what each site gains from the federation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from adamss_fl.errors import InputError
from adamss_fl.evaluation.compare import hash_of_names
from adamss_fl.evaluation.power import NoSpread, reach, standard_error
from adamss_fl.evaluation.predictions import Predictions
from adamss_fl.evaluation.report_inputs import BOOTSTRAP, finite, read_json
from adamss_fl.evaluation.scores import score
from adamss_fl.federation.files import write_json
from adamss_fl.federation.selection import LEAST_PAIRS
from adamss_fl.survival import NoComparablePairs, concordance_counts, paired_difference
from adamss_fl.survival.bootstrap import resampled_c_indices

Verdict = Literal["helped", "harmed", "cannot be told"]

FILE = "cross_site.json"
FEDERATED, LOCAL = "federated", "local:"
NO_PAIRS = "no comparable pair"
LEVEL = 0.05


@dataclass(frozen=True)
class Gain:
    """C-index of the federated model minus that of a site's own local one, on that site's test patients.

    comparable_pairs : that the difference rests on; None of the figures is given where there is none.
    low, high : 95 % percentile interval, the same patients being resampled for both models.
    p : two-sided, from the same resamples; p_holm : after Holm's correction over the sites that have a p.
    detectable : the difference that these patients would show with 80 % power; None where the resamples do not differ.
    verdict : by the interval, for this site alone; verdict_holm : the same where ``p_holm`` is 0.05 or less.
    note : why a figure is missing, or empty.
    """

    comparable_pairs: int
    difference: float | None = None
    low: float | None = None
    high: float | None = None
    p: float | None = None
    p_holm: float | None = None
    detectable: float | None = None
    verdict: Verdict = "cannot be told"
    verdict_holm: Verdict = "cannot be told"
    note: str = ""


def cross_site(run: Path) -> dict[str, Any]:
    """Judge every arm in the folder of a comparison site by site; returns what ``cross_site.json`` there then holds.

    ``matrix`` {model: {site: figures}} with the figures of ``scores.score`` and a ``note``; ``gains`` {site: Gain};
    ``family`` the number of sites that Holm's correction is over; ``left_out`` the arm folders without predictions.
    Arms that ``comparison.json`` does not name are judged under their folder's name.

    Raises InputError where ``run`` holds no comparison, an arm that it names has no predictions, or the arms' test
    patients are not the same.
    """
    comparison = _comparison(run)
    found, left_out = _models(run, comparison)
    bootstrap = int(finite(comparison.get("bootstrap")) or BOOTSTRAP)
    seed = int(finite(comparison.get("seed")) or 0)
    sites = [str(site) for site in np.unique(found[FEDERATED].site)]
    gains = gains_of_sites(found, bootstrap, seed)
    result = {
        "bootstrap": bootstrap,
        "seed": seed,
        "test_patients_sha256": comparison["test_patients_sha256"],
        "sites": sites,
        "matrix": {name: {site: _cell(each, site, bootstrap, seed) for site in sites} for name, each in found.items()},
        "gains": {site: asdict(gain) for site, gain in gains.items()},
        "family": sum(gain.p is not None for gain in gains.values()),
        "left_out": left_out,
    }
    write_json(run / FILE, result)
    return result


def gains_of_sites(found: Mapping[str, Predictions], bootstrap: int, seed: int) -> dict[str, Gain]:
    """The gain of every site that has a local model; predictions by model name, all of the same patients in order."""
    names = sorted(name.removeprefix(LOCAL) for name in found if name.startswith(LOCAL))
    gains = {site: _gain(found[FEDERATED], found[LOCAL + site], site, bootstrap, seed) for site in names}
    family = {site: gain.p for site, gain in gains.items() if gain.p is not None}
    for site, adjusted in zip(family, holm(list(family.values())), strict=True):
        told: Verdict = gains[site].verdict if adjusted <= LEVEL else "cannot be told"
        gains[site] = replace(gains[site], p_holm=adjusted, verdict_holm=told)
    return gains


def bootstrap_p(differences: NDArray[np.float64]) -> float:
    """Two-sided p of a difference from its B resamples (B,): 2 (1 + min(#{d <= 0}, #{d >= 0})) / (B + 1), at most 1.

    The added one keeps it above 0, since B resamples cannot show a p below 2 / (B + 1), and a little above what the
    percentile interval says: one that just leaves 0 out has a p just above 0.05 where B is small.
    Source: Davison & Hinkley, Bootstrap Methods and their Application (1997).
    """
    fewer = min(int((differences <= 0).sum()), int((differences >= 0).sum()))
    return min(1.0, 2.0 * (1 + fewer) / (differences.size + 1))


def holm(p: Sequence[float]) -> list[float]:
    """Holm's step-down adjusted p of a family, in the order given. Source: Holm, Scand. J. Stat. 6:65-70 (1979)."""
    adjusted, largest = [0.0] * len(p), 0.0
    for rank, index in enumerate(sorted(range(len(p)), key=lambda each: p[each])):
        largest = max(largest, min(1.0, (len(p) - rank) * p[index]))
        adjusted[index] = largest
    return adjusted


def _gain(federated: Predictions, local: Predictions, site: str, bootstrap: int, seed: int) -> Gain:
    """A site's gain before any correction."""
    chosen = federated.site == site
    if not chosen.any():
        return Gain(0, note="no test patient")
    outcome = federated.time_days[chosen], federated.event[chosen]
    risks = federated.risk[chosen], local.risk[chosen]
    pairs = concordance_counts(*outcome, risks[0]).comparable_pairs
    try:
        found = paired_difference(*outcome, *risks, bootstrap, seed)
    except NoComparablePairs:  # of the patients, or (with very few of them) of every resample
        return Gain(pairs, note=NO_PAIRS if not pairs else "no resample has a comparable pair")
    if pairs < LEAST_PAIRS:
        note = f"fewer than {LEAST_PAIRS} comparable pairs"
        return Gain(pairs, found.difference, found.low, found.high, note=note)
    together, alone = resampled_c_indices(*outcome, risks, bootstrap, seed)
    differences = together - alone
    try:
        detectable, note = reach() * standard_error(differences), ""
    except NoSpread:
        detectable, note = None, "both models order every resample alike"
    return Gain(
        pairs,
        found.difference,
        found.low,
        found.high,
        p=bootstrap_p(differences),
        detectable=detectable,
        verdict=_verdict(found.low, found.high),
        note=note,
    )


def _verdict(low: float, high: float) -> Verdict:
    if low > 0:
        return "helped"
    return "harmed" if high < 0 else "cannot be told"


def _cell(model: Predictions, site: str, bootstrap: int, seed: int) -> dict[str, Any]:
    figures = score(model.subset(model.site == site), bootstrap, seed)
    return {**figures, "note": "" if figures["comparable_pairs"] else NO_PAIRS}


def _comparison(run: Path) -> Mapping[str, Any]:
    path = run / "comparison.json"
    if not path.is_file():
        raise InputError(
            f"{run}: holds no comparison ({path.name} is missing); give a folder that `compare` finished, "
            "of several seeds one seed's"
        )
    comparison = read_json(path)
    arms = comparison.get("arms")
    if not isinstance(arms, Mapping) or FEDERATED not in arms or "test_patients_sha256" not in comparison:
        raise InputError(f"{path}: names no federated arm or no test patients; run the comparison again")
    return comparison


def _models(run: Path, comparison: Mapping[str, Any]) -> tuple[dict[str, Predictions], list[str]]:
    """Predictions of every arm, their patients in the federated arm's order, and folders without any."""
    named = {name.replace(":", "-"): name for name in comparison["arms"]}
    folders = sorted(path.name for path in (run / "arms").glob("*") if path.is_dir())
    further = [folder for folder in folders if folder not in named]
    found: dict[str, Predictions] = {}
    left_out: list[str] = []
    for folder in (*named, *further):
        path = run / "arms" / folder / "predictions.npz"
        if path.is_file():
            found[named.get(folder, folder)] = _same_patients(path, comparison["test_patients_sha256"])
        elif folder in named:
            raise InputError(f"{path}: is missing; run the comparison again, finished arms are kept")
        else:
            left_out.append(folder)
    return {name: _in_order_of(found[FEDERATED], each, run, name) for name, each in found.items()}, left_out


def _same_patients(path: Path, expected: str) -> Predictions:
    predictions = Predictions.load(path)
    names = zip(predictions.site.tolist(), predictions.patient.tolist(), strict=True)
    if hash_of_names(names) != expected:
        raise InputError(f"{path}: its test patients are not those of comparison.json; run the comparison again")
    return predictions


def _in_order_of(first: Predictions, other: Predictions, run: Path, name: str) -> Predictions:
    """``other`` with the patients in the order of ``first``. Raises InputError where an outcome differs."""
    order = np.empty(len(first.patient), dtype=np.intp)
    order[np.lexsort((first.patient, first.site))] = np.lexsort((other.patient, other.site))
    ordered = other.subset(order)
    if not (np.array_equal(ordered.time_days, first.time_days) and np.array_equal(ordered.event, first.event)):
        raise InputError(f"{run}: arm {name} knows other times or events of its test patients; run it again")
    return ordered
