"""The comparison: every arm on the same footing, and every figure that of a direct call."""

import hashlib
import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from lifelines.utils import concordance_index
from synthetic import make_data, make_task

from adamss_fl.errors import InputError
from adamss_fl.evaluation import compare as module
from adamss_fl.evaluation.compare import (
    arms_of,
    centralized,
    compare,
    gaps,
    hash_of_patients,
    oracle_figures,
    pool,
    predict_arm,
    train_arm,
)
from adamss_fl.evaluation.predictions import Predictions, predict
from adamss_fl.federation.checkpoint import Checkpoints
from adamss_fl.federation.events import read_events
from adamss_fl.federation.finished_run import final_weights
from adamss_fl.federation.plan import RoundPlan
from adamss_fl.federation.run import initial_weights
from adamss_fl.federation.settings import BlockSettings, FederationSettings, PluginSettings
from adamss_fl.federation.site_data import SiteData
from adamss_fl.federation.task import Task
from adamss_fl.model import GROUPS, AdaMSS, parameter_groups
from adamss_fl.survival import bootstrap_interval, paired_difference

FEDERATION = FederationSettings(min_sites=2, aggregator=PluginSettings("momentum", {"momentum": 0.5}))


def make_sites() -> dict[str, SiteData]:
    sizes = {"north": 3, "south": 6}
    return {name: make_data(name, size, seed, test=6) for seed, (name, size) in enumerate(sizes.items())}


@dataclass(frozen=True)
class Compared:
    """A comparison that was run once."""

    task: Task
    data: dict[str, SiteData]
    out: Path
    said: dict[str, Any]

    def predictions(self, arm: str) -> Predictions:
        return Predictions.load(self.out / "arms" / arm.replace(":", "-") / "predictions.npz")


ARMS = ("federated", "pooled", "local:north", "local:south")


@pytest.fixture(scope="module")
def compared(tmp_path_factory: pytest.TempPathFactory) -> Compared:
    out = tmp_path_factory.mktemp("comparison")
    task, data = make_task((1, 1), federation=FEDERATION, proximal_mu=0.1), make_sites()
    oracle = {sample.patient_id: -sample.time_days for sample in pool(data).test}
    return Compared(task, data, out, compare(task, data, out, bootstrap=20, oracle=oracle))


def test_every_arm_is_judged_on_the_same_test_patients(compared: Compared) -> None:
    everyone = [(sample.site, sample.patient_id) for sample in pool(compared.data).test]
    expected = hashlib.sha256("\x1e".join("\x1f".join(pair) for pair in sorted(everyone)).encode()).hexdigest()
    assert compared.said["test_patients_sha256"] == expected
    for arm in ARMS:
        found = compared.predictions(arm)
        assert list(zip(found.site.tolist(), found.patient.tolist(), strict=True)) == everyone
        assert len(np.unique(found.risk)) > 1
        assert compared.said["arms"][arm]["test_patients"] == len(everyone) == compared.said["test_patients"]


def test_every_arm_has_the_same_budget_and_starts_from_the_same_weights(compared: Compared) -> None:
    """A pass over n patients in batches of three is ceil(n / 3) steps, in every arm and each of its rounds."""
    assert compared.said["budget"] == {"segmentation_epochs": 1, "survival_epochs": 1}
    start = initial_weights(compared.task)
    sizes = {"north": 3, "south": 6, "pooled": 9}
    for arm in arms_of(tuple(compared.data), compared.out):
        first = Checkpoints(arm.folder / "checkpoints").load(0).weights
        assert all(np.array_equal(first[name], start[name]) for name in start)
        trained = [event for event in read_events(arm.folder / "events.jsonl") if event["kind"] == "train"]
        names = {"federated": ["north", "south"], "pooled": ["pooled"]}.get(arm.kind, list(arm.sites))
        assert [(event["round"], event["site"]) for event in trained] == [(r, name) for r in (1, 2) for name in names]
        for event in trained:
            assert event["figures"]["patients"] == sizes[event["site"]]
            assert event["figures"]["steps"] == -(-sizes[event["site"]] // 3)


def test_each_arm_says_how_many_patients_it_trained_on(compared: Compared) -> None:
    arms = compared.said["arms"]
    assert {name: arms[name]["patients"] for name in ARMS} == dict(zip(ARMS, (9, 9, 3, 6), strict=True))
    assert {name: arms[name]["kind"] for name in ARMS} == dict(
        zip(ARMS, ("federated", "pooled", "local", "local"), strict=True)
    )


def test_an_arms_figures_are_lifelines_c_index_and_its_bootstrap(compared: Compared) -> None:
    for arm in ARMS:
        p, said = compared.predictions(arm), compared.said["arms"][arm]
        interval = bootstrap_interval(p.time_days, p.event, p.risk, 20, compared.task.seed)
        assert said["c_index"] == pytest.approx(concordance_index(p.time_days, -p.risk, p.event))
        assert (said["ci_low"], said["ci_high"]) == (interval.low, interval.high)
        assert set(said["sites"]) == {"north", "south"}


def test_predictions_of_an_arm_are_those_of_its_final_weights(compared: Compared) -> None:
    survival, segmentation, state = final_weights(compared.out / "arms" / "local-south")
    again = predict(compared.task, survival, segmentation, pool(compared.data).test, state["edges_days"])
    np.testing.assert_array_equal(again.risk, compared.predictions("local:south").risk)
    np.testing.assert_array_equal(again.overlap, compared.predictions("local:south").overlap)


def test_gaps_are_the_paired_differences(compared: Compared) -> None:
    found = {arm: compared.predictions(arm) for arm in ARMS}
    assert gaps(found, 20, compared.task.seed) == compared.said["gaps"]
    one = found["federated"]
    outcome = (one.time_days, one.event)
    direct = paired_difference(*outcome, one.risk, found["pooled"].risk, 20, compared.task.seed)
    said = compared.said["gaps"]
    assert said["federated - pooled"] == {"difference": direct.difference, "low": direct.low, "high": direct.high}
    c = {arm: concordance_index(one.time_days, -found[arm].risk, one.event) for arm in ARMS}
    mean_local = (c["local:north"] + c["local:south"]) / 2
    assert said["federated - mean local"]["difference"] == pytest.approx(c["federated"] - mean_local)
    own = one.site == "north"
    own_c = [
        concordance_index(one.time_days[own], -found[a].risk[own], one.event[own]) for a in ("federated", "local:north")
    ]
    assert said["own_patients"]["federated - local:north"]["difference"] == pytest.approx(own_c[0] - own_c[1])


def test_the_oracle_is_the_c_index_of_the_truth_given(compared: Compared) -> None:
    """Here the truth orders the patients by their times, so that no pair is wrong."""
    assert compared.said["oracle_c_index"] == 1.0
    assert compared.said["oracle_comparable_pairs"] == compared.said["arms"]["pooled"]["comparable_pairs"]


def test_an_oracle_that_misses_a_patient_or_has_no_pair_is_none() -> None:
    test = make_data("a").test
    truth = {sample.patient_id: 1.0 for sample in test}
    assert oracle_figures(test, None)["oracle_c_index"] is None
    assert oracle_figures(test, dict(list(truth.items())[1:]))["oracle_c_index"] is None
    censored = [replace(sample, event=0) for sample in test]
    assert oracle_figures(censored, truth) == {"oracle_c_index": None, "oracle_comparable_pairs": 0}


def test_a_comparison_run_again_trains_nothing_and_says_the_same(
    compared: Compared, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = (compared.out / "comparison.json").read_bytes()
    assert json.loads(before) == compared.said
    monkeypatch.setattr("adamss_fl.federation.site.train_stage", pytest.fail)
    oracle = {sample.patient_id: -sample.time_days for sample in pool(compared.data).test}
    compare(compared.task, compared.data, compared.out, bootstrap=20, oracle=oracle)
    assert (compared.out / "comparison.json").read_bytes() == before


class Killed(Exception):
    """Stands for a process that dies."""


def test_a_comparison_killed_and_resumed_equals_the_uninterrupted_one(
    compared: Compared, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed in the second round of the pooled arm, after the federated one."""
    from adamss_fl.federation import site as site_module

    original, calls = site_module.train_stage, 0

    def dying(*arguments: Any, **keywords: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls > 5:
            raise Killed
        return original(*arguments, **keywords)

    with monkeypatch.context() as patch:
        patch.setattr(site_module, "train_stage", dying)
        with pytest.raises(Killed):
            compare(compared.task, compared.data, tmp_path, bootstrap=20)
    assert not (tmp_path / "comparison.json").exists()
    oracle = {sample.patient_id: -sample.time_days for sample in pool(compared.data).test}
    compare(compared.task, compared.data, tmp_path, bootstrap=20, oracle=oracle)
    assert (tmp_path / "comparison.json").read_bytes() == (compared.out / "comparison.json").read_bytes()


def test_the_federated_arm_may_be_trained_by_another_transport(compared: Compared, tmp_path: Path) -> None:
    arm = arms_of(tuple(compared.data), tmp_path)[0]
    folders: list[Path] = []

    def elsewhere(folder: Path) -> None:
        folders.append(folder)
        train_arm(arm, compared.task, compared.data)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "train_arm", lambda *_: (_ for _ in ()).throw(Killed))
        with pytest.raises(Killed):  # the next arm, which this process trains
            compare(compared.task, compared.data, tmp_path, train_federated=elsewhere)
    assert folders == [arm.folder]
    np.testing.assert_array_equal(
        Predictions.load(arm.folder / "predictions.npz").risk, compared.predictions("federated").risk
    )


@pytest.mark.parametrize("part", ["train", "validation"])
def test_a_test_patient_that_is_trained_or_selected_on_anywhere_is_refused_by_name(part: str, tmp_path: Path) -> None:
    data = make_sites()
    leaked = data["north"].test[2]
    south = data["south"]
    data["south"] = replace(south, **{part: (*getattr(south, part), leaked)})
    with pytest.raises(InputError, match=rf"1 test patients are also in training, the first '{leaked.patient_id}'"):
        compare(make_task(), data, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_no_test_patient_at_all_is_refused(tmp_path: Path) -> None:
    data = {name: replace(own, test=()) for name, own in make_sites().items()}
    with pytest.raises(InputError, match=r"split\.test: no site has a test patient"):
        compare(make_task(), data, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_centralized_strips_what_belongs_to_a_federation_and_nothing_else() -> None:
    federation = FederationSettings(
        min_sites=3,
        deadline_seconds=9.0,
        attempts=4,
        aggregator=PluginSettings("flower:FedAdam"),
        groups={"norm_statistics": PluginSettings("local")},
    )
    task = make_task(federation=federation, proximal_mu=0.3)
    found = centralized(task)
    assert found.federation == FederationSettings(min_sites=1, deadline_seconds=0.0, attempts=1)
    assert found.federation.aggregator.name == "average"
    assert (found.stages.segmentation.proximal_mu, found.stages.survival.proximal_mu) == (0.0, 0.0)
    stages = {name: replace(getattr(found.stages, name), proximal_mu=0.3) for name in ("segmentation", "survival")}
    assert replace(found, federation=federation, stages=replace(found.stages, **stages)) == task
    assert centralized(found) == found


def test_pooling_keeps_every_part_and_the_order_of_sites() -> None:
    data = make_sites()
    pooled = pool(dict(reversed(data.items())))
    for part in ("train", "validation", "test"):
        expected = [sample.patient_id for name in sorted(data) for sample in getattr(data[name], part)]
        assert [sample.patient_id for sample in getattr(pooled, part)] == expected


def test_the_hash_tells_patients_and_sites_apart_and_not_their_order() -> None:
    test = make_data("a").test
    assert hash_of_patients(test) == hash_of_patients(test[::-1])
    assert hash_of_patients(test) != hash_of_patients(test[1:])
    assert hash_of_patients(test) != hash_of_patients([replace(test[0], site="b"), *test[1:]])


def test_the_budget_is_told_in_each_stages_own_unit() -> None:
    blocks = (BlockSettings(("segmentation",), 2, epochs=3), BlockSettings(("survival",), 4, steps=5))
    task = replace(make_task(), plan=RoundPlan(blocks))
    assert (module.unit(task, "segmentation"), module.unit(task, "survival")) == ("epochs", "steps")


def test_every_site_is_judged_with_its_own_local_groups_as_of_each_model(tmp_path: Path) -> None:
    """FedBN: a hospital's patients meet the global model with that hospital's norms, those of stage I for the masks."""
    local = {group: PluginSettings("local") for group in ("norm_statistics", "survival_head")}
    task = make_task((1, 4), federation=FederationSettings(groups=local))
    task = replace(task, stages=replace(task.stages, edges_days=(0.0, 150.0, 250.0, 400.0, 2000.0)))
    data = {name: make_data(name, 3, seed, test=2) for seed, name in enumerate(("north", "south"))}
    arm = arms_of(tuple(data), tmp_path)[0]
    train_arm(arm, task, data)
    found = predict_arm(arm, task, data)
    survival, segmentation, state = final_weights(arm.folder)
    assert len(np.unique(found.risk)) > 1
    names = {name for group in local for name in parameter_groups(AdaMSS(task.model))[group]}
    assert set(local) <= set(GROUPS)
    for site in data:
        own = []
        for weights, round_ in ((survival, 5), (segmentation, 1)):
            from safetensors.numpy import load_file

            private = load_file(arm.folder / "sites" / site / state["run"] / f"round-{round_:04d}.safetensors")
            own.append({**weights, **{name: private[f"local/{name}"] for name in names}})
        expected = predict(task, own[0], own[1], data[site].test, state["edges_days"])
        chosen = found.subset(found.site == site)
        np.testing.assert_array_equal(chosen.risk, expected.risk)
        np.testing.assert_array_equal(chosen.overlap, expected.overlap)
