"""Clinical columns and radiomics features in a federation: learnt from sums, as if all patients were in one place."""

import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import norm
from sksurv.linear_model import CoxPHSurvivalAnalysis
from sksurv.util import Surv
from synthetic import make_data, make_task

from adamss_fl.errors import InputError
from adamss_fl.federation.checkpoint import Checkpoints
from adamss_fl.federation.features import follow_up_counts
from adamss_fl.federation.finished_run import final_weights
from adamss_fl.federation.local_sites import LocalSites
from adamss_fl.federation.messages import Collected, Instruction
from adamss_fl.federation.run import run_federation
from adamss_fl.federation.site import Site
from adamss_fl.federation.site_data import SiteData
from adamss_fl.federation.task import Task
from adamss_fl.imaging import Sample
from adamss_fl.imaging.settings import ImagingSettings
from adamss_fl.radiomics import ClinicalColumn, RadiomicsSettings, TabularSettings
from adamss_fl.radiomics.encoding import TabularEncoding
from adamss_fl.survival.screening import coarse_edges
from adamss_fl.training.radiomics_table import RadiomicsTable, key_of

CLINICAL = (ClinicalColumn("age_years"), ClinicalColumn("hpv", "binary"), ClinicalColumn("sex", "categorical"))
RADIOMICS = RadiomicsSettings(settings={"wavelet": False}, min_voxels=1, select=3)
SITES = ("a", "b", "c")


def with_clinical(data: SiteData, seed: int) -> SiteData:
    rng = np.random.default_rng(seed)

    def own(sample: Sample) -> Sample:
        values: dict[str, str | float | None] = {
            "age_years": float(rng.integers(40, 80)),
            "hpv": None if rng.random() < 0.3 else float(rng.integers(2)),
            "sex": "MF"[int(rng.integers(2))],
        }
        return replace(sample, clinical=values)

    return SiteData(*(tuple(own(sample) for sample in part) for part in (data.train, data.validation, data.test)))


@pytest.fixture(scope="module")
def data() -> dict[str, SiteData]:
    return {name: with_clinical(make_data(name, train=15 + n, seed=n), n) for n, name in enumerate(SITES)}


def task_with(
    clinical: tuple[ClinicalColumn, ...] = CLINICAL,
    radiomics: RadiomicsSettings | None = RADIOMICS,
    plan: tuple[int, int] = (2, 2),
) -> Task:
    imaging = ImagingSettings(grid=(16, 16, 16), spacing_mm=(4.0, 4.0, 4.0))
    task = make_task(plan, learning_rate=1e-2)
    return replace(task, tabular=TabularSettings(clinical, radiomics), imaging=imaging)


def sites_of(task: Task, data: Mapping[str, SiteData], out: Path) -> LocalSites:
    return LocalSites([Site(name, lambda own=own: own, task, out / name) for name, own in data.items()])  # type: ignore[misc]


def encoding_of(out: Path) -> TabularEncoding:
    return TabularEncoding.from_plain(final_weights(out)[2]["tabular"])


def selected_from(tables: Sequence[RadiomicsTable], everyone: Sequence[Sample], edges: Sequence[float]) -> list[str]:
    """The selection made in one place: scikit-survival's Cox (Breslow) per feature on binned times, then pruning."""
    names = tables[0].names
    rows = np.concatenate([table.values[: len(table.values)] for table in tables])
    keys = [key for table in tables for key in table.patients]
    x = rows[[keys.index(key_of(sample)) for sample in everyone]]
    mean, sd = np.nanmean(x, axis=0), np.nanstd(x, axis=0)
    varies = sd > 1e-9 * np.abs(mean)
    z = np.nan_to_num((x - mean) / np.where(varies, sd, 1.0))
    cell = np.searchsorted(edges, [sample.time_days for sample in everyone], side="right") - 1
    seen = np.array([bool(s.event) for s in everyone]) & (cell < len(edges) - 1)
    outcome = Surv.from_arrays(seen, cell + 1.0)
    p = np.ones(len(names))
    for index in np.flatnonzero(varies):
        try:
            fit = CoxPHSurvivalAnalysis(ties="breslow", n_iter=30).fit(z[:, [index]], outcome)
        except ValueError:
            continue  # a feature that separates the events has no estimate
        weight = np.exp(z[:, index] * fit.coef_[0])
        information = 0.0
        for k in cell[seen]:
            at_risk = cell >= k
            w, v = weight[at_risk], z[at_risk, index]
            information += np.average(v**2, weights=w) - np.average(v, weights=w) ** 2
        p[index] = 2 * norm.sf(abs(fit.coef_[0]) * np.sqrt(information))
    order = sorted(np.flatnonzero(p < 1), key=lambda index: (p[index], names[index]))[: 8 * RADIOMICS.select]
    kept: list[int] = []
    for index in order:
        close = [abs(np.corrcoef(z[:, index], z[:, other])[0, 1]) for other in kept]
        if len(kept) < RADIOMICS.select and max(close, default=0.0) <= RADIOMICS.max_correlation:
            kept.append(index)
    return [names[index] for index in kept]


def test_three_sites_select_and_scale_as_all_their_patients_would_in_one_place(
    data: dict[str, SiteData], tmp_path: Path
) -> None:
    task = task_with()
    run_federation(task, sites_of(task, data, tmp_path / "s"), tmp_path / "run", evaluate_test=False)
    state = final_weights(tmp_path / "run")[2]
    found = TabularEncoding.from_plain(state["tabular"])
    everyone = [sample for own in data.values() for sample in own.train]
    ages = [float(sample.clinical["age_years"] or 0) for sample in everyone]
    assert found.clinical[0].mean == pytest.approx(np.mean(ages), rel=1e-12)
    assert found.clinical[0].sd == pytest.approx(np.std(ages), rel=1e-12)
    tables = [RadiomicsTable.load(next((tmp_path / "s" / name).rglob("table.npz"))) for name in SITES]
    counts = [follow_up_counts([s.time_days for s in own.train], state["edges_days"]) for own in data.values()]
    edges = coarse_edges(counts, state["edges_days"])
    assert found.selected is not None
    assert [scale.name for scale in found.selected] == selected_from(tables, everyone, edges)
    assert found.selected
    rows = np.concatenate([table.rows(data[name].train) for name, table in zip(SITES, tables, strict=True)])
    for scale in found.selected:
        column = rows[:, tables[0].names.index(scale.name)]
        assert scale.mean == pytest.approx(np.nanmean(column), rel=1e-9)
        assert scale.sd == pytest.approx(np.nanstd(column), rel=1e-9)


def test_the_survival_head_takes_the_vector_and_stage_one_is_over_before_it(
    data: dict[str, SiteData], tmp_path: Path
) -> None:
    task = task_with()
    metrics = run_federation(task, sites_of(task, data, tmp_path / "s"), tmp_path / "run")
    weights, _, state = final_weights(tmp_path / "run")
    length = encoding_of(tmp_path / "run").length
    assert weights["survival_head.hidden.weight"].shape[1] == 30 + length
    assert metrics["c_index"] is not None
    kept = Checkpoints(tmp_path / "run" / "checkpoints")
    assert TabularEncoding.from_plain(kept.load(2).state["tabular"]).selected is None
    kinds = [json.loads(line)["kind"] for line in (tmp_path / "run" / "events.jsonl").read_text().splitlines()]
    assert kinds.index("radiomics") > kinds.index("round_start")
    assert state["tabular"] == metrics["tabular"]


class Stopped(Exception):
    """Stands for a kill."""


class StopsAt:
    """Sites to which a query, or the instruction to train a round, is never sent."""

    def __init__(self, sites: LocalSites, query: str | int) -> None:
        self.sites, self.query = sites, query
        self.names = sites.names

    def broadcast(self, instruction: Instruction, deadline_seconds: float | None = None) -> Collected:
        asked = instruction.round if instruction.kind == "train" else instruction.settings.get("query")
        if asked == self.query:
            raise Stopped
        return self.sites.broadcast(instruction, deadline_seconds)


@pytest.mark.parametrize("query", ["radiomics_cox", 3])
def test_a_run_killed_while_it_agrees_ends_as_one_that_was_not(
    query: str | int, data: dict[str, SiteData], tmp_path: Path
) -> None:
    task = task_with()
    two = {name: data[name] for name in SITES[:2]}
    run_federation(task, sites_of(task, two, tmp_path / "s"), tmp_path / "whole", evaluate_test=False)
    with pytest.raises(Stopped):
        run_federation(task, StopsAt(sites_of(task, two, tmp_path / "k"), query), tmp_path / "cut")  # type: ignore[arg-type]
    run_federation(task, sites_of(task, two, tmp_path / "k"), tmp_path / "cut", evaluate_test=False)
    expected, found = final_weights(tmp_path / "whole")[0], final_weights(tmp_path / "cut")[0]
    assert all(np.array_equal(expected[name], found[name]) for name in expected)


class Listening:
    """Sites whose replies' figures are kept as the text that would cross the wire."""

    def __init__(self, sites: LocalSites) -> None:
        self.sites, self.heard = sites, ""
        self.names = sites.names

    def broadcast(self, instruction: Instruction, deadline_seconds: float | None = None) -> Collected:
        collected = self.sites.broadcast(instruction, deadline_seconds)
        self.heard += json.dumps([dict(reply.figures) for reply in collected.replies])
        return collected


def test_no_patient_is_named_in_what_leaves_a_site(data: dict[str, SiteData], tmp_path: Path) -> None:
    task = task_with()
    sites = Listening(sites_of(task, data, tmp_path / "s"))
    run_federation(task, sites, tmp_path / "run")  # type: ignore[arg-type]
    everyone = [s for own in data.values() for part in (own.train, own.test) for s in part]
    assert not [s.patient_id for s in everyone if s.patient_id in sites.heard]


@pytest.mark.parametrize("attempts", [1, 2])
def test_a_site_that_lost_its_features_makes_them_again(
    attempts: int, data: dict[str, SiteData], tmp_path: Path
) -> None:
    """It is absent by name once; with another attempt the run then is as one that nothing has happened to."""
    task = task_with(plan=(2, 3))
    task = replace(task, federation=replace(task.federation, attempts=attempts, min_sites=attempts))
    two = {name: data[name] for name in SITES[:2]}
    with pytest.raises(Stopped):
        run_federation(task, StopsAt(sites_of(task, two, tmp_path / "s"), 4), tmp_path / "run")  # type: ignore[arg-type]
    for table in (tmp_path / "s" / "a").rglob("table.npz"):
        table.unlink()
    run_federation(task, sites_of(task, two, tmp_path / "s"), tmp_path / "run", evaluate_test=False)
    lines = [json.loads(line) for line in (tmp_path / "run" / "events.jsonl").read_text().splitlines()]
    absences = [(line["round"], line["site"], line["cause"]) for line in lines if line["kind"] == "absence"]
    assert absences == [(4, "a", "no_radiomics")]
    took_part = {line["round"]: line["sites"] for line in lines if line["kind"] == "aggregate"}
    assert took_part[4] == (["b"] if attempts == 1 else ["a", "b"])
    assert took_part[5] == ["a", "b"]
    if attempts == 2:
        run_federation(task, sites_of(task, two, tmp_path / "w"), tmp_path / "whole", evaluate_test=False)
        expected, found = final_weights(tmp_path / "whole")[0], final_weights(tmp_path / "run")[0]
        assert all(np.array_equal(expected[name], found[name]) for name in expected)


def test_a_missing_extractor_stops_the_run_before_it_trains(
    data: dict[str, SiteData], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "radiomics", None)
    with pytest.raises(InputError, match="scripts/setup"):
        run_federation(task_with(), sites_of(task_with(), data, tmp_path / "s"), tmp_path / "run")
    assert not list((tmp_path / "run").glob("checkpoints/*"))


def test_without_a_feature_that_can_be_fitted_none_is_selected(data: dict[str, SiteData], tmp_path: Path) -> None:
    """Masks that are all too small give every patient the flag and no feature."""
    task = task_with(radiomics=replace(RADIOMICS, min_voxels=5000))
    run_federation(task, sites_of(task, {"a": data["a"]}, tmp_path / "s"), tmp_path / "run", evaluate_test=False)
    found = encoding_of(tmp_path / "run")
    assert found.selected == ()
    assert found.length == 2 + 2 + 3 + 3 + 1
