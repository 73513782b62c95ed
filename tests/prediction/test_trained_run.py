"""A finished run read back: its weights, what it refuses, and the folds of a cross-validated one."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from safetensors.numpy import load_file
from trained_phantom import Trained

from adamss_fl.errors import InputError
from adamss_fl.federation.checkpoint import Checkpoints
from adamss_fl.federation.inputs import LEAST_PATIENTS
from adamss_fl.model import AdaMSS, to_weights
from adamss_fl.prediction import load_folds, load_run
from adamss_fl.radiomics.clinical import ColumnEncoding
from adamss_fl.radiomics.encoding import TabularEncoding

Copy = Callable[..., Path]


def change_config(run: Path, **changed: Any) -> None:
    config = yaml.safe_load((run / "config.yaml").read_text())
    for name, values in changed.items():
        config[name] |= values
    (run / "config.yaml").write_text(yaml.safe_dump(config))


def refusal(run: Path) -> str:
    with pytest.raises(InputError) as caught:
        load_run(run)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_run_is_read_with_the_weights_of_each_stage(trained: Trained) -> None:
    run = load_run(trained.run)
    for stage, round_ in (("segmentation", 1), ("survival", 2)):
        on_disk = load_file(trained.run / "checkpoints" / f"round-{round_:04d}" / "model.safetensors")
        model = run.model(stage)  # type: ignore[arg-type]
        assert not model.training
        found = to_weights(model)
        assert found.keys() == on_disk.keys()
        assert all(np.array_equal(found[name], on_disk[name]) for name in on_disk)
    assert run.encoding is None
    assert len(run.edges_days) == 4


def test_the_digests_are_those_of_the_files(trained: Trained) -> None:
    import hashlib

    run = load_run(trained.run)
    files = {stage: f"round-{n:04d}" for stage, n in (("segmentation", 1), ("survival", 2))}
    assert run.digests() == {
        stage: hashlib.sha256((trained.run / "checkpoints" / name / "model.safetensors").read_bytes()).hexdigest()
        for stage, name in files.items()
    }


def test_a_run_knows_how_many_patients_it_was_trained_on_and_their_images(trained: Trained) -> None:
    """Against the prepared training images themselves."""
    from adamss_fl.assembly import load_site_data
    from adamss_fl.config import load_config

    train = load_site_data(load_config(trained.run / "config.yaml"), "hospital", trained.run / "cache").train
    state = load_run(trained.run).state["trained_on"]
    assert state["patients"] == len(train) >= LEAST_PATIENTS
    shares = [float((np.asarray(sample.image)[1] > 0).mean()) for sample in train]
    np.testing.assert_allclose(state["inputs"]["body_fraction"], [len(train), sum(shares), np.square(shares).sum()])


def test_a_checkpoint_of_another_architecture_names_every_tensor_that_differs(copied: Copy) -> None:
    from dataclasses import replace

    run = copied()
    before = load_run(run).task.model
    change_config(run, model={"width": 2})
    ours, theirs = AdaMSS(before).state_dict(), AdaMSS(replace(before, width=2)).state_dict()
    different = [name for name in ours if ours[name].shape != theirs[name].shape]
    line = refusal(run)
    assert f"{len(different)} tensors differ" in line
    assert len(different) > 100
    assert all(f"{name} has shape" in line for name in different)


@pytest.mark.parametrize("file", ["model.safetensors", "state.json"])
@pytest.mark.parametrize("harm", ["cut", "emptied", "altered"])
def test_a_torn_checkpoint_is_refused_by_its_place(copied: Copy, file: str, harm: str) -> None:
    run = copied()
    path = run / "checkpoints" / "round-0002" / file
    content = path.read_bytes()
    path.write_bytes({"cut": content[:-9], "emptied": b"", "altered": content[:50] + b"??" + content[52:]}[harm])
    line = refusal(run)
    assert "round-0002" in line or "time bins" in line


def test_what_is_no_run_or_an_unfinished_one_is_refused(copied: Copy, tmp_path: Path) -> None:
    assert "config.yaml is missing" in refusal(tmp_path / "nothing")
    run = copied()
    (run / "metrics.json").write_text("{")
    assert "metrics.json" in refusal(run)
    (run / "metrics.json").unlink()
    assert "holds no finished run" in refusal(run)


def test_a_run_with_parts_at_its_sites_is_refused(copied: Copy) -> None:
    run = copied()
    change_config(run, federation={"groups": {"norm_statistics": "local"}})
    assert "parts of this model stay at its sites" in refusal(run)


def test_a_tabular_run_is_read_with_its_encoding(copied: Copy) -> None:
    """The encoding sets the length of the model's tabular vector."""
    run = copied()
    made = TabularEncoding((ColumnEncoding("age_years", "continuous", 60.0, 9.0),))
    for number in (1, 2):
        checkpoints = Checkpoints(run / "checkpoints")
        found = checkpoints.load(number)
        weights = dict(found.weights)
        hidden = weights["survival_head.hidden.weight"]
        weights["survival_head.hidden.weight"] = np.pad(hidden, [(0, 0), (0, 2)])
        state = {**found.state, "tabular": made.plain()}
        checkpoints.save(type(found)(number, weights, found.aggregator, state), pin=True)
    read = load_run(run)
    assert read.encoding == made
    assert (read.task.model.tabular, read.model("survival").settings.tabular) == (2, 2)


def test_folds_are_read_in_order_and_must_fit_each_other(copied: Copy, tmp_path: Path) -> None:
    run = tmp_path / "crossed"
    source = copied()
    for number in (10, 2):
        shutil.copytree(source, run / "folds" / f"fold-{number}")
    with pytest.raises(InputError, match="not finished"):
        load_folds(run)
    (run / "metrics.json").write_text("{}")
    assert [fold.folder.name for fold in load_folds(run)] == ["fold-2", "fold-10"]
    assert [fold.folder for fold in load_folds(source)] == [source]
    change_config(run / "folds" / "fold-10", imaging={"pet_suv_max": 15.0})
    with pytest.raises(InputError, match="fold-10: imaging"):
        load_folds(run)


def test_metrics_of_a_run_without_rounds_are_refused(copied: Copy) -> None:
    run = copied()
    (run / "metrics.json").write_text(json.dumps({"rounds": None}))
    assert "metrics.json" in refusal(run)
