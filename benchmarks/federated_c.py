"""The federated C-index: its error against the pooled one by table size, the coverage of its intervals, and its speed.

    python benchmarks/federated_c.py                 # all three, some minutes on one core
    python benchmarks/federated_c.py --cohorts 20 --patients 5000

Minimum cell counts: the C-index from the coarsest common table that each site may tell, and from boxes of its own.

Errors: 200 random cohorts of 600 patients at five sites of unequal size and hazard, half of them with times in whole
days. Coverage: 300 cohorts from one population. Speed: seconds of a site and of the server for one large site, and
lifelines on the same patients in the same run.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from functools import reduce
from operator import add
from typing import Any

import numpy as np
from numpy.typing import NDArray

from adamss_fl.federation.statistics.box_concordance import all_pairs_of_boxes, box_interval, box_sums
from adamss_fl.federation.statistics.concordance import AllPairs, ConcordanceSums, all_pairs, concordance_sums
from adamss_fl.federation.statistics.resampling import resampled_interval, resampled_sums
from adamss_fl.survival import concordance_counts

Array = NDArray[Any]
Cohort = tuple[Array, Array, Array, Array]
"""Days, events, risks and sites of N patients."""


def main() -> None:
    """Run the benchmark and print its tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cohorts", type=int, default=200)
    parser.add_argument("--patients", type=int, default=50_000, help="of the one site whose time is taken")
    options = parser.parse_args()
    print("| bins | mean error | worst | bias | mean width of the bounds | inside them |\n|---|---|---|---|---|---|")
    for bins in (64, 32, 16, 8, 4, 2, 1):
        print(error_row(bins, options.cohorts), flush=True)
    print(f"\n{BOX_HEAD}\n|---|---|---|---|---|---|---|")
    for patients, sites, least in ((600, 5, 5), (250, 3, 5), (3000, 5, 5)):
        print(box_row(patients, sites, least, options.cohorts // 2), flush=True)
    print("\n| patients | bins | coverage of the 95 % interval | mean width |\n|---|---|---|---|")
    for patients, bins in ((150, 16), (300, 16), (150, 4), (150, 2)):
        print(coverage_row(patients, bins, 300 * options.cohorts // 200), flush=True)
    print(box_coverage_row(300, 5, 150 * options.cohorts // 200), flush=True)
    print("\n" + speed(options.patients))


def cohort(rng: np.random.Generator, whole_days: bool, patients: int = 600, sites: int = 5) -> Cohort:
    """A random cohort; its sites differ in size and hazard, its model in strength, its censoring in amount."""
    slope, noise = rng.uniform(0.3, 1.5), rng.uniform(0.2, 1.5)
    log_hazard = rng.normal(size=patients)
    site = rng.choice(sites, size=patients, p=rng.dirichlet(np.full(sites, 5)))
    hazard = np.exp(slope * log_hazard + rng.normal(0, 0.3, sites)[site])
    died = (rng.exponential(size=patients) / hazard) ** (1 / rng.uniform(0.8, 2)) * 800
    lost = rng.uniform(0, np.quantile(died, rng.uniform(0.6, 0.98)) * 1.6, size=patients)
    days = np.minimum(died, lost)
    return np.ceil(days) if whole_days else days, died <= lost, log_hazard + noise * rng.normal(size=patients), site


def from_one_population(rng: np.random.Generator, patients: int) -> Cohort:
    """A cohort of three sites from a fixed population, half of it censored."""
    log_hazard, site = rng.normal(size=patients), rng.choice(3, size=patients, p=[0.5, 0.3, 0.2])
    died = (rng.exponential(size=patients) * np.exp(-log_hazard - np.array([0, 0.2, -0.2])[site])) ** 0.8 * 800
    lost = rng.uniform(0, 2500, size=patients)
    return np.minimum(died, lost), died <= lost, log_hazard + 0.8 * rng.normal(size=patients), site


def edges_of(values: Array, bins: int) -> list[float]:
    """Inner edges of ``bins`` equal shares."""
    if bins == 1:
        return []
    found: list[float] = np.unique(np.quantile(values, np.arange(1, bins) / bins, method="inverted_cdf")).tolist()
    return found


def parts_of(data: Cohort, bins: int) -> list[tuple[Any, ...]]:
    """What each site's sums are made from."""
    days, events, risks, site = data
    edges = edges_of(days, bins), edges_of(risks, bins)
    return [(days[site == k], events[site == k], risks[site == k], *edges) for k in np.unique(site)]


def error_row(bins: int, cohorts: int) -> str:
    """One line of the first table."""
    rng, found = np.random.default_rng(0), []
    for number in range(cohorts):
        data = cohort(rng, whole_days=number % 2 == 1)
        sums = reduce(add, [concordance_sums(*part) for part in parts_of(data, bins)])
        found.append((concordance_counts(*data[:3]).c_index, all_pairs(sums)))
    return f"| {bins} x {bins} | {error_columns(found)} |"


BOX_HEAD = "| patients, sites, minimum | from | mean error | worst | bias | width of the bounds | inside them |"


def box_row(patients: int, sites: int, least: int, cohorts: int) -> str:
    """Two lines of the table on minimum cell counts: the table that all sites may tell, and their own boxes."""
    rng = np.random.default_rng(0)
    found: dict[str, list[tuple[float, AllPairs]]] = {"table": [], "boxes": []}
    for number in range(cohorts):
        data = cohort(rng, number % 2 == 1, patients, sites)
        parts = parts_of(data, 64)
        time_edges, risk_edges = parts[0][3:]
        bins = len(time_edges) + 1, len(risk_edges) + 1
        own = [box_sums(*part, 0, 0, least) for part in parts]
        told = [part for part, sums in zip(parts, own, strict=True) if sums is not None]
        truth = concordance_counts(*(np.concatenate([part[place] for part in told]) for place in (0, 1, 2))).c_index
        tables = (
            [concordance_sums(*part[:3], time_edges[step - 1 :: step], risk_edges[step - 1 :: step]) for part in told]
            for step in (1, 2, 4, 8, 16, 32, 64)
        )
        allowed = next(sums for sums in tables if all(site.fewest_in_a_cell >= least for site in sums))
        found["table"].append((truth, all_pairs(reduce(add, allowed))))
        found["boxes"].append((truth, all_pairs_of_boxes([sums for sums in own if sums is not None], bins)))
    return "\n".join(
        f"| {patients}, {sites}, {least} | {name} | {error_columns(pairs)} |" for name, pairs in found.items()
    )


def error_columns(pairs: Sequence[tuple[float, AllPairs]]) -> str:
    """Cells of a line from (pooled C-index, what sums say of it)."""
    errors = np.array([found.c_index - truth for truth, found in pairs])
    width = np.mean([found.high - found.low for _, found in pairs])
    inside = sum(found.low - 1e-12 <= truth <= found.high + 1e-12 for truth, found in pairs)
    sizes = np.abs(errors)
    return f"{sizes.mean():.5f} | {sizes.max():.5f} | {errors.mean():+.5f} | {width:.3f} | {inside} of {len(pairs)}"


def coverage_row(patients: int, bins: int, cohorts: int) -> str:
    """One line of the second table."""
    truth = concordance_counts(*from_one_population(np.random.default_rng(99), 100_000)[:3]).c_index
    covered, widths = 0, []
    for seed in range(cohorts):
        parts = parts_of(from_one_population(np.random.default_rng(seed), patients), bins)
        sums = reduce(add, [concordance_sums(*part) for part in parts])
        drawn = [resampled_sums(*part, 400, seed * 10 + site) for site, part in enumerate(parts)]
        interval = resampled_interval(all_pairs(sums).c_index, sums, reduce(add, drawn))
        covered += interval.low <= truth <= interval.high
        widths.append(interval.high - interval.low)
    return f"| {patients} | {bins} x {bins} | {covered / cohorts:.3f} | {np.mean(widths):.3f} |"


def box_coverage_row(patients: int, least: int, cohorts: int) -> str:
    """A line of the table of intervals, from boxes of ``least`` patients or more."""
    truth = concordance_counts(*from_one_population(np.random.default_rng(99), 100_000)[:3]).c_index
    covered, widths = 0, []
    for seed in range(cohorts):
        parts = parts_of(from_one_population(np.random.default_rng(seed), patients), 64)
        bins = len(parts[0][3]) + 1, len(parts[0][4]) + 1
        told = [box_sums(*part, 400, seed * 10 + site, least) for site, part in enumerate(parts)]
        interval = box_interval([sums for sums in told if sums is not None], bins)
        covered += interval.low <= truth <= interval.high
        widths.append(interval.high - interval.low)
    return f"| {patients} | boxes of {least} or more | {covered / cohorts:.3f} | {np.mean(widths):.3f} |"


def speed(patients: int) -> str:
    """Seconds of one site, of the server, and of lifelines, in turn; medians of three."""
    from lifelines.utils import concordance_index

    data = from_one_population(np.random.default_rng(0), patients)
    days, events, risks, _ = data
    edges = edges_of(days, 64), edges_of(risks, 64)
    sums = concordance_sums(days, events, risks, *edges)
    told, bins = sums.plain(), (len(edges[0]) + 1, len(edges[1]) + 1)

    def server() -> None:
        read = ConcordanceSums.from_plain(told, bins, patients)
        all_pairs(read + read)

    seconds = {
        "a site": median_seconds(lambda: concordance_sums(days, events, risks, *edges)),
        "the server": median_seconds(server),
        "lifelines": median_seconds(lambda: concordance_index(days, -risks, events)),
    }
    shown = ", ".join(f"{name} {value:.4f} s" for name, value in seconds.items())
    ratio = seconds["a site"] / seconds["lifelines"]
    return f"{patients} patients: {shown}; a site takes {ratio:.2f} times lifelines' time"


def median_seconds(work: Any, repeats: int = 3) -> float:
    """The median of some runs of ``work``."""
    found: Sequence[float] = sorted(_seconds(work) for _ in range(repeats))
    return found[repeats // 2]


def _seconds(work: Any) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


if __name__ == "__main__":
    main()
