"""A comparison with strategies and a null run: equal budgets, nothing done twice, and test patients unseen."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from synthetic import make_data, make_task

from adamss_fl.errors import InputError
from adamss_fl.evaluation import kept
from adamss_fl.evaluation.arms import NULL, POOLED, arms_of, folder_name, predict_arm
from adamss_fl.evaluation.compare import compare, pool
from adamss_fl.evaluation.predictions import Predictions, predict
from adamss_fl.evaluation.settings import Design
from adamss_fl.evaluation.strategies import STRATEGIES
from adamss_fl.federation.checkpoint import Checkpoints
from adamss_fl.federation.events import read_events
from adamss_fl.federation.finished_run import final_weights
from adamss_fl.federation.run import initial_weights
from adamss_fl.federation.site_data import SiteData
from adamss_fl.federation.task import Task
from adamss_fl.imaging import Sample
from adamss_fl.radiomics.settings import ClinicalColumn, TabularSettings
from adamss_fl.survival import paired_difference

pytestmark = pytest.mark.slow

DESIGN = Design(strategies=tuple(STRATEGIES), null=True)
ARMS = ("federated", POOLED, "local:north", "local:south", *STRATEGIES, NULL)
SIZES = {"north": 3, "south": 3, POOLED: 6}


def with_ages(samples: tuple[Sample, ...], seed: int) -> tuple[Sample, ...]:
    ages = np.random.default_rng(seed).uniform(30, 80, len(samples))
    return tuple(replace(s, clinical={"age_years": float(age)}) for s, age in zip(samples, ages, strict=True))


def make_sites() -> dict[str, SiteData]:
    found = {}
    for seed, name in enumerate(("north", "south")):
        own = make_data(name, SIZES[name], seed, test=4)
        found[name] = SiteData(train=with_ages(own.train, seed), test=with_ages(own.test, seed + 2))
    return found


def make_design_task() -> Task:
    return replace(make_task((1, 1), epochs=2), tabular=TabularSettings(clinical=(ClinicalColumn("age_years"),)))


@dataclass(frozen=True)
class Compared:
    """A comparison that was run once."""

    task: Task
    data: dict[str, SiteData]
    out: Path
    said: Mapping[str, Any]

    def folder(self, arm: str) -> Path:
        return self.out / "arms" / folder_name(arm)

    def predictions(self, arm: str) -> Predictions:
        return Predictions.load(self.folder(arm) / "predictions.npz")


@pytest.fixture(scope="module")
def compared(tmp_path_factory: pytest.TempPathFactory) -> Compared:
    out, task, data = tmp_path_factory.mktemp("design"), make_design_task(), make_sites()
    return Compared(task, data, out, compare(task, data, out, bootstrap=20, design=DESIGN))


def models_of(out: Path, arm: str) -> dict[str, np.ndarray[Any, Any]]:
    """Every tensor that an arm ends with: its global model's, and each site's own."""
    folder = out / "arms" / folder_name(arm)
    survival, segmentation, state = final_weights(folder)
    found = {f"survival/{name}": array for name, array in survival.items()}
    found |= {f"segmentation/{name}": array for name, array in segmentation.items()}
    found |= {"edges": np.array(state["edges_days"]), "tabular": np.array(json.dumps(state["tabular"]))}
    for site in sorted((folder / "personal").glob("*")):
        last = Checkpoints(site).newest()
        assert last is not None
        found |= {f"{site.name}/{name}": array for name, array in last.weights.items()}
    from safetensors.numpy import load_file

    for private in sorted((folder / "sites").glob("*/*/round-*.safetensors")):
        key = "/".join((private.parts[-3], private.stem))
        found |= {f"{key}/{name}": array for name, array in load_file(private).items()}
    return found


def test_every_arm_passes_as_often_over_each_patient_and_starts_from_the_same_weights(compared: Compared) -> None:
    """A pass over n patients in batches of three is n / 3 steps; two passes of either stage."""
    assert set(compared.said["arms"]) == set(ARMS)
    tabular = final_weights(compared.folder(POOLED))[2]["tabular"]
    start = initial_weights(compared.task, tabular)
    for arm in ARMS:
        first = Checkpoints(compared.folder(arm) / "checkpoints").load(0).weights
        assert all(np.array_equal(first[name], start[name]) for name in start if not name.endswith("tabular"))
        steps: dict[str, int] = {}
        for event in read_events(compared.folder(arm) / "events.jsonl"):
            if event["kind"] == "train":
                steps[event["site"]] = steps.get(event["site"], 0) + event["figures"]["steps"]
        for site in (compared.folder(arm) / "personal").glob("*"):
            last = Checkpoints(site).newest()
            assert last is not None
            steps[site.name] += last.state["figures"]["steps"]
        assert steps
        assert steps == {site: 4 * SIZES[site] // 3 for site in steps}, arm


def test_the_differences_are_those_of_each_strategy_to_pooled_and_to_federated(compared: Compared) -> None:
    labels = {"federated - pooled", "federated - mean local", "own_patients"}
    labels |= {f"{name} - {other}" for name in STRATEGIES for other in ("pooled", "federated")}
    assert set(compared.said["gaps"]) == labels
    one, other = compared.predictions("fedadam"), compared.predictions("federated")
    direct = paired_difference(one.time_days, one.event, one.risk, other.risk, 20, compared.task.seed)
    said = compared.said["gaps"]["fedadam - federated"]
    assert said == {"difference": direct.difference, "low": direct.low, "high": direct.high}


def test_a_strategy_that_is_the_configured_federation_is_taken_over_and_the_others_differ(compared: Compared) -> None:
    federated = compared.predictions("federated").risk
    for name in STRATEGIES:
        same = np.array_equal(compared.predictions(name).risk, federated)
        assert same == (name in ("fedavg", "sequential")), name
    runs = {name: final_weights(compared.folder(name))[2]["run"] for name in ("federated", "fedavg", "sequential")}
    assert len(set(runs.values())) == 1


def test_the_null_run_has_its_c_index_at_one_half(compared: Compared) -> None:
    said = compared.said["arms"][NULL]
    assert said["kind"] == "null"
    assert said["holds_half"] == (said["ci_low"] <= 0.5 <= said["ci_high"])
    assert said["holds_half"]
    np.testing.assert_array_equal(
        compared.predictions(NULL).time_days, [sample.time_days for sample in pool(compared.data).test]
    )


def test_a_design_run_again_trains_and_predicts_nothing_and_says_the_same(
    compared: Compared, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = (compared.out / "comparison.json").read_bytes()
    assert json.loads(before) == json.loads(json.dumps(compared.said))
    monkeypatch.setattr("adamss_fl.federation.site.train_stage", pytest.fail)
    monkeypatch.setattr("adamss_fl.evaluation.predictions.infer", pytest.fail)
    compare(compared.task, compared.data, compared.out, bootstrap=20, design=DESIGN)
    assert (compared.out / "comparison.json").read_bytes() == before


def changed(sample: Sample) -> Sample:
    """Another image, another mask, another age and another outcome under the same name."""
    image = np.ascontiguousarray(sample.image[:, ::-1]) * np.float32(0.5) + np.float32(0.1)
    return replace(
        sample,
        image=image,
        mask=np.ascontiguousarray(sample.mask[:, ::-1]),
        time_days=sample.time_days * 3 + 11,
        event=1,
        clinical={"age_years": 99.0 - float(sample.clinical["age_years"] or 0)},
    )


def test_no_arm_trains_or_scales_on_test_patients(compared: Compared, tmp_path: Path) -> None:
    """Every test patient is another one, and every arm's models, time bins and encodings are the same bits."""
    other = {name: replace(own, test=tuple(map(changed, own.test))) for name, own in compared.data.items()}
    compare(compared.task, other, tmp_path, bootstrap=20, design=DESIGN)
    for arm in ARMS:
        before, after = models_of(compared.out, arm), models_of(tmp_path, arm)
        assert set(before) == set(after)
        for name, array in before.items():
            np.testing.assert_array_equal(after[name], array, err_msg=f"{arm}: {name}")
        now = Predictions.load(tmp_path / "arms" / folder_name(arm) / "predictions.npz")
        assert not np.array_equal(now.risk, compared.predictions(arm).risk)


def test_predictions_of_changed_patients_are_made_anew(compared: Compared, tmp_path: Path) -> None:
    """A kept file is of the very patients that it was made from."""
    arm = replace(arms_of(tuple(compared.data), compared.out)[1], folder=tmp_path / "arm")
    kept.adopt(compared.folder(POOLED), arm.folder, {})
    same = kept.kept_predictions(arm, compared.task, compared.data)
    np.testing.assert_array_equal(same.risk, compared.predictions(POOLED).risk)
    other = {name: replace(own, test=tuple(map(changed, own.test))) for name, own in compared.data.items()}
    assert not np.array_equal(kept.kept_predictions(arm, compared.task, other).risk, same.risk)


def test_the_personal_arm_applies_each_sites_own_fine_tuned_model(compared: Compared) -> None:
    found = compared.predictions("personal")
    survival, segmentation, state = final_weights(compared.folder("personal"))
    for site, own in compared.data.items():
        last = Checkpoints(compared.folder("personal") / "personal" / site).newest()
        assert last is not None
        assert any(not np.array_equal(last.weights[name], survival[name]) for name in survival)
        expected = predict(
            compared.task, last.weights, segmentation, own.test, state["edges_days"], tabular=state["tabular"]
        )
        np.testing.assert_array_equal(found.risk[found.site == site], expected.risk)


def test_an_arm_judged_on_other_patients_is_refused_by_name(
    compared: Compared, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def one_short(arm: Any, *arguments: Any) -> Predictions:
        found = predict_arm(arm, *arguments)
        return found.subset(np.arange(found.patient.size - 1)) if arm.name == "pooled" else found

    monkeypatch.setattr(kept, "predict_arm", one_short)
    with pytest.raises(InputError, match="arm pooled: is judged on other test patients"):
        compare(compared.task, compared.data, tmp_path, bootstrap=5)
    assert not (tmp_path / "comparison.json").exists()
