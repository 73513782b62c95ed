"""Hospitals of made-up training patients that answer cohort queries, for tests of the figures made from them."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
from synthetic import make_task

from adamss_fl.federation.cohort.figures import cohort_figures
from adamss_fl.federation.cohort.queries import answer_cohort
from adamss_fl.federation.messages import Reply
from adamss_fl.federation.rounds import QuorumLost
from adamss_fl.federation.task import Task
from adamss_fl.imaging import ImagingSettings, Sample
from adamss_fl.radiomics import ClinicalColumn, TabularSettings
from adamss_fl.radiomics.clinical import ClinicalSums
from adamss_fl.radiomics.encoding import TabularEncoding

EDGES = [320.0 * k for k in range(11)]
"""Sixty-four parts of these bins end half a day after every 50 days, on which all times lie."""
CLINICAL = (ClinicalColumn("age_years"), ClinicalColumn("hpv", "binary"), ClinicalColumn("sex", "categorical"))
TASK = replace(
    make_task(),
    imaging=ImagingSettings(grid=(16, 16, 16), spacing_mm=(4.0, 4.0, 4.0)),
    tabular=TabularSettings(CLINICAL),
)

Cohort = dict[str, tuple[Sample, ...]]
Spoil = Callable[[str, dict[str, Any]], dict[str, Any]]


def patients(number: int, count: int, **changed: Any) -> tuple[Sample, ...]:
    """Patients of one hospital whose hazard grows with age and falls with hpv; images of 8 voxels a side."""
    rng = np.random.default_rng([7, number])
    found = []
    for k in range(count):
        age, hpv = rng.normal(60, 9), float(rng.random() < 0.5)
        died = rng.exponential() * 1500 * np.exp(-0.04 * (age - 60) + 0.7 * hpv)
        lost = rng.uniform(100, 3200)
        mask = np.zeros((2, 8, 8, 8), np.uint8)
        mask[0, :3, :3, : 1 + k % 4] = 1
        mask[1, 5, 5, 5], mask[1, 7, 7, 7] = 1, k % 2
        values = {
            "age_years": None if rng.random() < 0.2 else float(age),
            "hpv": None if rng.random() < 0.2 else hpv,
            "sex": "MF"[int(rng.integers(2))],
        }
        sample = Sample(
            patient_id=f"p{number}-{k}",
            site=f"s{number}",
            image=rng.uniform(0.0, 0.3, (2, 8, 8, 8)).astype(np.float32),
            mask=mask,
            has_mask=True,
            time_days=float(np.ceil(min(died, lost) / 50) * 50),
            event=int(died <= lost),
            clinical=values,
        )
        found.append(replace(sample, **changed))
    return tuple(found)


def cohort(sizes: Sequence[int] = (120, 80, 60)) -> Cohort:
    return {f"s{number}": patients(number, size) for number, size in enumerate(sizes)}


def encoding_of(sites: Cohort, columns: Sequence[ClinicalColumn] = CLINICAL) -> TabularEncoding:
    everyone = [sample.clinical for samples in sites.values() for sample in samples]
    return TabularEncoding(ClinicalSums.of(columns, everyone).encodings())


class Hospitals:
    """Sites that answer cohort queries, as ``Rounds.ask`` would give their replies."""

    def __init__(
        self,
        sites: Cohort,
        least: Mapping[str, int] | None = None,
        spoil: Mapping[str, Spoil] | None = None,
        task: Task = TASK,
    ) -> None:
        self.sites, self.least, self.spoil, self.task = sites, least or {}, spoil or {}, task
        self.told: list[tuple[str, dict[str, Any]]] = []
        self.fails: set[str] = set()

    def __call__(self, query: Mapping[str, Any]) -> list[Reply]:
        if query["query"] in self.fails:
            raise QuorumLost("statistics: 0 of the 1 sites needed gave a usable reply")
        replies = []
        for name, samples in sorted(self.sites.items()):
            asked = json.loads(json.dumps({**query, "least": self.least.get(name, 1)}))
            figures = json.loads(json.dumps(answer_cohort(asked, samples, self.task, name), allow_nan=False))
            figures = self.spoil.get(name, lambda _, given: given)(query["query"], figures)
            self.told.append((query["query"], figures))
            replies.append(Reply("statistics", name, "run", 0, 1, figures))
        return replies


def figures_of(ask: Hospitals, columns: Sequence[ClinicalColumn] = CLINICAL) -> dict[str, Any]:
    return cohort_figures(ask, ask.task, sorted(ask.sites), EDGES, encoding_of(ask.sites, columns))


def pooled(sites: Cohort) -> pd.DataFrame:
    rows = [
        {"site": name, "time": sample.time_days, "event": sample.event, **sample.clinical}
        for name, samples in sites.items()
        for sample in samples
    ]
    return pd.DataFrame(rows)
