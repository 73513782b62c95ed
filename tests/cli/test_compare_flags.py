"""``compare`` with strategies, tuning, a null run and several seeds, as a user types it."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from adamss_fl.cli.main import main
from adamss_fl.cohort import make_phantom
from adamss_fl.config import load_config, task_of
from adamss_fl.evaluation.predictions import Predictions
from adamss_fl.survival import pooled_difference

SETTINGS: dict[str, Any] = {
    "name": "flags",
    "cache": "cache",
    "split": {"test": 0.34, "validation": 0.3},
    "imaging": {"grid": [16, 16, 16], "spacing_mm": [8.0, 8.0, 8.0]},
    "augmentation": [],
    "model": {"width": 1, "bins": 2},
    "plan": {"segmentation_rounds": 1, "survival_rounds": 1},
    "stages": {stage: {"batch_size": 3} for stage in ("segmentation", "survival")},
    "runtime": {"device": "cpu", "precision": "fp32", "channels_last": False, "threads": 1},
    "evaluation": {"bootstrap": 5, "every": 0, "strategies": {"proximal_mu": 0.5}},
}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("flags")
    make_phantom(folder / "phantom", sites=2, patients=12, size=16, seed=1, workers=1)
    sites = [{"name": f"hospital-{k}", "path": str(folder / f"phantom/hospital-{k}")} for k in (1, 2)]
    (folder / "config.yaml").write_text(yaml.safe_dump({**SETTINGS, "sites": sites}))
    return folder


def command(place: Path, out: str, *options: object) -> list[str]:
    fixed = ("--out", place / out, "--transport", "local", "--jobs", 1, "--json")
    return ["compare", str(place / "config.yaml"), *map(str, fixed), *map(str, options)]


def said(capsys: pytest.CaptureFixture[str], arguments: list[str]) -> dict[str, Any]:
    assert main(arguments) == 0, capsys.readouterr().err
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    return found


def refused(capsys: pytest.CaptureFixture[str], arguments: list[str]) -> str:
    assert main(arguments) == 2
    out, err = capsys.readouterr()
    assert out == ""
    return err


@pytest.mark.slow
def test_a_study_of_two_seeds_with_a_strategy_and_a_null_run(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    flags = ("--seeds", "0,1", "--strategies", "fedprox,sequential", "--null")
    found = said(capsys, command(place, "study", *flags))
    assert found["seeds"] == [0, 1]
    assert found["same_test_patients"]
    written = json.loads((place / "study/study.json").read_text())
    assert {**written, "run": found["run"]} == found
    cohorts = []
    for seed in (0, 1):
        folder = place / f"study/seed-{seed}"
        assert json.loads((folder / "comparison.json").read_text())["seed"] == seed
        assert load_config(folder / "arms/federated/config.yaml").seed == seed
        one, other = (Predictions.load(folder / f"arms/{name}/predictions.npz") for name in ("fedprox", "pooled"))
        cohorts.append((one.time_days, one.event, one.risk, other.risk))
    gap, direct = found["differences"]["fedprox - pooled"], pooled_difference(cohorts, 5)
    assert (gap["difference"], gap["low"], gap["high"]) == (direct.difference, direct.low, direct.high)
    assert not np.array_equal(cohorts[0][2], cohorts[1][2])

    own = load_config(place / "study/seed-1/arms/fedprox/config.yaml")
    assert own.stages.survival.proximal_mu == 0.5
    assert task_of(own).plan == task_of(load_config(place / "config.yaml")).plan

    before = {path: path.read_bytes() for path in (place / "study").rglob("*") if path.is_file()}
    assert said(capsys, command(place, "study", *flags)) == found
    assert {path: path.read_bytes() for path in (place / "study").rglob("*") if path.is_file()} == before

    assert "holds a study of several seeds" in refused(capsys, command(place, "study"))
    assert main([*command(place, "study", *flags)[:-6], *map(str, flags)]) == 0  # tables, without --json
    out = capsys.readouterr().out
    assert "arms over seeds 0, 1" in out
    assert "fedprox - federated" in out
    assert main(["report", str(place / "study/seed-0")]) == 0


@pytest.mark.slow
def test_tuned_arms_keep_the_configuration_that_was_chosen(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Trained two at a time, in processes of their own."""
    found = said(capsys, command(place, "tuned", "--tune", 2, "--jobs", 2))
    for name, arm in found["arms"].items():
        factors = arm["tuning"]["settings"][arm["tuning"]["chosen"] - 1]["learning_rate_factors"]
        own = load_config(place / "tuned/arms" / name.replace(":", "-") / "config.yaml")
        base = load_config(place / "config.yaml")
        for stage, factor in factors.items():
            rate = getattr(base.stages, stage).learning_rate
            assert getattr(own.stages, stage).learning_rate == pytest.approx(rate * factor)
    assert "holds a comparison with --tune" in refused(capsys, command(place, "tuned"))
    assert "holds a comparison with --tune" in refused(capsys, command(place, "tuned", "--null"))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--seeds", "0,x"), "--seeds: 'x' is no whole number of 0 or more; give for example --seeds 0,1,2"),
        (("--seeds", "0,0"), "--seeds: 0, 0; give whole numbers of 0 or more, each once"),
        (("--seeds", "-1"), "--seeds: '-1' is no whole number"),
        (("--split-by-seed",), "--split-by-seed: there are no --seeds to split by"),
        (("--strategies", "fedsgd"), "--strategies: there is no strategy 'fedsgd'"),
        (("--strategies", "personal"), "evaluation.strategies.personal_epochs: 1 passes are all of the plan's last"),
        (("--tune", "26"), "--tune: 26 settings asked for; give 1 to 25"),
        (("--tune", "2", "--set", "split.validation=0"), "--tune: split.validation is 0"),
        (("--set", "evaluation.strategies.proximal_mu=0"), "proximal_mu is 0.0; it must be a number above 0"),
    ],
)
def test_a_flag_that_cannot_be_is_one_line_and_leaves_nothing(
    options: tuple[str, ...], message: str, place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert message in refused(capsys, command(place, "refused", *options))
    assert not (place / "refused" / "arms").exists()
    assert not list((place / "refused").glob("*.json"))
