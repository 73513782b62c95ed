"""Cross-validation: no patient is learnt from and judged on; a killed one, resumed, gives the same bits."""

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from lifelines.utils import concordance_index
from synthetic import make_data, make_samples

from adamss_fl import crossval as module
from adamss_fl.assembly import run_centralized, run_comparison
from adamss_fl.config import load_config, task_of
from adamss_fl.crossval import run_cross_validation
from adamss_fl.errors import InputError
from adamss_fl.evaluation.compare import centralized, hash_of_patients, pool
from adamss_fl.evaluation.cross_validation import make_folds, members_of_run
from adamss_fl.evaluation.ensemble import average
from adamss_fl.evaluation.predictions import Predictions, predict
from adamss_fl.federation.finished_run import final_weights
from adamss_fl.federation.site_data import SiteData
from adamss_fl.run_config import RunConfig
from adamss_fl.training import sliding_window

SETTINGS: dict[str, Any] = {
    "name": "folds",
    "split": {"test": 0.2, "validation": 0.1},
    "imaging": {"grid": [16, 16, 16]},
    "augmentation": [],
    "model": {"width": 1, "bins": 2},
    "plan": {"segmentation_rounds": 1, "survival_rounds": 1, "epochs": 8},  # so that masks are found
    "stages": {
        "segmentation": {"batch_size": 4, "learning_rate": 1e-2},
        "survival": {"batch_size": 4, "learning_rate": 1e-3},
    },
    "runtime": {"device": "cpu", "precision": "fp32", "channels_last": False, "threads": 1},
    "evaluation": {"bootstrap": 10},
}


def make_config(folder: Path, **changed: Any) -> RunConfig:
    path = folder / "config.yaml"
    sites = [{"name": name, "path": str(folder / name)} for name in ("north", "south")]
    path.write_text(yaml.safe_dump({**SETTINGS, "sites": sites, **changed}))
    return load_config(path)


def make_sites(test: int = 3) -> dict[str, SiteData]:
    return {
        "north": make_data("north", 5, seed=1, test=test, validation=1),
        "south": make_data("south", 6, seed=2, test=test),
    }


@dataclass(frozen=True)
class Finished:
    """A cross-validation of three folds that was run once."""

    config: RunConfig
    data: dict[str, SiteData]
    out: Path
    said: dict[str, Any]

    def predictions(self, fold: int, name: str = "predictions.npz") -> Predictions:
        return Predictions.load(self.out / "folds" / f"fold-{fold}" / name)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Finished:
    folder = tmp_path_factory.mktemp("crossval")
    config, data = make_config(folder), make_sites()
    out = folder / "run"
    return Finished(config, data, out, run_cross_validation(config, data, out, 3))


def inside(data: dict[str, SiteData]) -> set[str]:
    everyone = pool(data)
    return {sample.patient_id for sample in (*everyone.train, *everyone.validation)}


def test_every_patient_of_the_training_part_is_judged_once_by_a_model_that_never_saw_it(finished: Finished) -> None:
    folds = make_folds(pool(finished.data), 3, finished.config.split.seed)
    judged = [set(finished.predictions(fold.number).patient.tolist()) for fold in folds]
    assert sum(map(len, judged)) == 12
    assert set().union(*judged) == inside(finished.data)
    test = {sample.patient_id for sample in pool(finished.data).test}
    for fold, names in zip(folds, judged, strict=True):
        learnt = {sample.patient_id for sample in fold.data.train}
        assert learnt == inside(finished.data) - names
        assert not fold.data.validation
        assert not test & (learnt | names)


def test_each_fold_trains_both_stages_on_the_other_folds_patients_alone(finished: Finished, tmp_path: Path) -> None:
    """Trained again as a plain run on just those patients, with the held-out ones not even present: the same bits."""
    fold = make_folds(pool(finished.data), 3, finished.config.split.seed)[1]
    config = replace(finished.config, split=replace(finished.config.split, validation=0.0))
    run_centralized(config, {"pooled": SiteData(fold.data.train)}, tmp_path / "alone")
    again, kept = final_weights(tmp_path / "alone"), final_weights(finished.out / "folds" / "fold-2")
    assert again[2]["edges_days"] == kept[2]["edges_days"]
    for ours, theirs in zip(again[:2], kept[:2], strict=True):
        assert all(np.array_equal(ours[name], theirs[name]) for name in theirs)


def test_the_hash_of_every_part_is_recorded(finished: Finished) -> None:
    kept = json.loads((finished.out / "folds" / "folds.json").read_text())
    folds = make_folds(pool(finished.data), 3, finished.config.split.seed)
    assert [fold["held_out_sha256"] for fold in kept["folds"]] == [hash_of_patients(f.data.test) for f in folds]
    assert [fold["trained_on_sha256"] for fold in kept["folds"]] == [hash_of_patients(f.data.train) for f in folds]
    assert len({fold["held_out_sha256"] for fold in kept["folds"]}) == 3
    assert kept["test_patients_sha256"] == hash_of_patients(pool(finished.data).test)
    text = (finished.out / "folds" / "folds.json").read_text() + (finished.out / "metrics.json").read_text()
    assert not any(name in text for name in inside(finished.data))


def test_the_test_patients_are_judged_by_the_mean_curve_of_the_folds(finished: Finished) -> None:
    task, test = centralized(task_of(finished.config)), pool(finished.data).test
    models = []
    for fold in (1, 2, 3):
        survival, segmentation, state = final_weights(finished.out / "folds" / f"fold-{fold}")
        models.append(predict(task, survival, segmentation, test, state["edges_days"]))
        np.testing.assert_array_equal(models[-1].risk, finished.predictions(fold, "test_predictions.npz").risk)
    together = Predictions.load(finished.out / "predictions.npz")
    np.testing.assert_array_equal(together.risk, average(models, together.overlap).risk)
    said = finished.said["test"]
    assert said["test_patients"] == 6
    expected = concordance_index(together.time_days, -together.risk, together.event)
    assert said["ensemble"]["c_index"] == pytest.approx(expected)


def test_the_ensembles_masks_are_where_the_mean_probability_is_above_one_half(finished: Finished) -> None:
    """Against probabilities from ``predict``'s own path, one patient and one model at a time."""
    task, test = centralized(task_of(finished.config)), pool(finished.data).test
    networks = [member.segmenting().eval() for member in members_of_run(task, finished.out)]
    assert len(networks) == 3
    expected = []
    for sample in test:
        image = np.asarray(sample.image)
        maps = [sliding_window(network, image, image.shape[1:], task.runtime) for network in networks]
        found, true = np.mean(maps, axis=0) > 0.5, np.asarray(sample.mask) > 0
        expected.append([[(f & t).sum(), f.sum(), t.sum()] for f, t in zip(found, true, strict=True)])
    together = Predictions.load(finished.out / "predictions.npz")
    np.testing.assert_allclose(together.overlap, expected, atol=1)  # a mean of 0.5 may fall on either side
    assert together.overlap[..., 1].sum() > 0
    each = np.sum([finished.predictions(fold, "test_predictions.npz").overlap for fold in (1, 2, 3)], axis=0)
    assert (together.overlap[..., 1] != each[..., 1]).any()


def test_metrics_name_what_their_c_index_is(finished: Finished) -> None:
    metrics = json.loads((finished.out / "metrics.json").read_text())
    assert json.loads((finished.out / "cross_validation.json").read_text()) == finished.said
    assert metrics["c_index"] == finished.said["out_of_fold"]["within_folds"]["c_index"]
    assert metrics["c_index_pairs"] == "out of fold, within folds"
    assert metrics["test"]["c_index"] == finished.said["test"]["ensemble"]["c_index"]
    assert finished.said["scheme"] == "3 folds, stratified by event and centre"


class Killed(Exception):
    """The process ends here."""


def killed_at(place: tuple[str, int]) -> Callable[[str, int, int], None]:
    def progress(what: str, done: int, total: int) -> None:
        if (what, done) == place:
            raise Killed

    return progress


def bits(out: Path) -> dict[str, bytes]:
    """All that a cross-validation leaves for its reader, and the weights of every fold."""
    kept = ["cross_validation.json", "metrics.json", "out_of_fold.csv", "predictions.npz", "folds/folds.json"]
    kept += [f"folds/fold-{k}/{name}.npz" for k in (1, 2, 3) for name in ("predictions", "test_predictions")]
    kept += [str(path.relative_to(out)) for path in sorted(out.glob("folds/*/checkpoints/*/*.safetensors"))]
    return {name: (out / name).read_bytes() for name in kept}


def test_killed_three_times_and_resumed_gives_the_same_bits(finished: Finished, tmp_path: Path) -> None:
    """Killed in the first fold's stage I, in the second one's stage II, and while the ensemble predicts."""
    out = tmp_path / "run"
    stages = ("fold 1: pooled: round 1, segmentation", 1), ("fold 2: pooled: round 2, survival", 2)
    for place in (*stages, ("predictions of every model", 2)):
        with pytest.raises(Killed):
            run_cross_validation(finished.config, finished.data, out, 3, killed_at(place))
        assert not (out / "metrics.json").exists()
    assert run_cross_validation(finished.config, finished.data, out, 3) == finished.said
    assert bits(out) == bits(finished.out)


def test_a_finished_fold_is_not_trained_again(finished: Finished, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("trained again")

    monkeypatch.setattr(module, "run_centralized", refuse)
    assert run_cross_validation(finished.config, finished.data, finished.out, 3) == finished.said


def test_another_cross_validation_in_the_folder_is_refused_and_nothing_written(finished: Finished) -> None:
    before = bits(finished.out)
    other = replace(finished.config, seed=5)
    fewer = {name: SiteData(value.train, test=value.test) for name, value in finished.data.items()}
    moved = replace(finished.config.sites[0], path="/elsewhere")
    for config, data, scheme, what in (
        (finished.config, finished.data, 2, "other folds"),
        (finished.config, finished.data, "centre", "other folds"),
        (other, finished.data, 3, "other settings"),
        (finished.config, {"north": finished.data["north"]}, 2, "other folds"),
        (finished.config, fewer, 3, "other patients"),
        (replace(finished.config, sites=(moved, *finished.config.sites[1:])), finished.data, 3, "/elsewhere"),
    ):
        with pytest.raises(InputError, match=what):
            run_cross_validation(config, data, finished.out, scheme)
    assert bits(finished.out) == before


def test_other_runs_and_cross_validations_do_not_share_a_folder(finished: Finished, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="holds a cross-validation"):
        run_centralized(finished.config, finished.data, finished.out)
    with pytest.raises(InputError, match="no comparison"):
        run_comparison(finished.config, finished.data, finished.out)
    for name in ("arms", "checkpoints"):
        (tmp_path / name / name).mkdir(parents=True)
        with pytest.raises(InputError, match="no cross-validation"):
            run_cross_validation(finished.config, finished.data, tmp_path / name, 3)


def test_predictions_of_other_patients_than_the_folds_are_refused(finished: Finished, tmp_path: Path) -> None:
    import shutil

    out = tmp_path / "run"
    shutil.copytree(finished.out, out)
    shutil.copy(out / "folds/fold-1/predictions.npz", out / "folds/fold-2/predictions.npz")
    with pytest.raises(InputError, match="holds other patients than fold 2's"):
        run_cross_validation(finished.config, finished.data, out, 3)


@pytest.mark.parametrize(
    ("twin", "part", "message"),
    [
        ("north-000", "train", "'north-000' at north, south"),
        ("north-000", "test", "1 test patients are also among those to divide into folds, the first 'north-000'"),
        ("north-006", "train", "1 test patients are also among those to divide into folds, the first 'north-006'"),
    ],
)
def test_a_patient_at_two_sites_is_refused(
    finished: Finished, tmp_path: Path, twin: str, part: str, message: str
) -> None:
    south = finished.data["south"]
    samples = getattr(south, part)
    changed = {part: (replace(samples[0], patient_id=twin), *samples[1:])}
    with pytest.raises(InputError, match=message):
        run_cross_validation(
            finished.config, {**finished.data, "south": replace(south, **changed)}, tmp_path / "run", 3
        )
    assert not (tmp_path / "run").exists()


def test_leave_one_centre_out_of_one_site_without_test_patients(tmp_path: Path) -> None:
    """Centres are the clinical column's; without a test part there is no ensemble figure, and it says so."""
    samples = tuple(
        replace(sample, clinical={"centre": "AB"[k % 2]}) for k, sample in enumerate(make_samples(12, seed=3))
    )
    config = make_config(tmp_path, split={"test": 0.0})
    said = run_cross_validation(config, {"south": SiteData(samples)}, tmp_path / "run", "centre")
    assert [fold["label"] for fold in said["folds"]] == ["centre A", "centre B"]
    found = Predictions.load(tmp_path / "run/folds/fold-1/predictions.npz")
    assert set(found.patient) == {sample.patient_id for sample in samples[::2]}
    assert said["test"] is None
    assert not (tmp_path / "run/predictions.npz").exists()
    assert json.loads((tmp_path / "run/metrics.json").read_text())["test"] == {"patients": 0}


def test_a_scheme_that_is_none_is_refused(finished: Finished) -> None:
    with pytest.raises(InputError, match="'site' is no scheme"):
        make_folds(pool(finished.data), "site", 0)
