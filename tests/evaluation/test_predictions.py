"""Predictions against the network and the time grid called by hand."""

from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from synthetic import make_samples, make_task

from adamss_fl.errors import InputError
from adamss_fl.evaluation.predictions import Predictions, join, predict
from adamss_fl.federation.messages import Weights
from adamss_fl.federation.run import initial_weights
from adamss_fl.model import AdaMSS, load_weights

EDGES = (0.0, 100.0, 250.0, 400.0, 900.0)
NAMES = [field.name for field in fields(Predictions)]


def assert_equal(first: Predictions, second: Predictions) -> None:
    for name in NAMES:
        one, two = getattr(first, name), getattr(second, name)
        assert one.dtype == two.dtype
        np.testing.assert_array_equal(one, two, err_msg=name)


def scaled(factor: float) -> Weights:
    """The initial network with smaller weights: fresh running statistics would saturate its outputs."""
    weights = initial_weights(make_task())
    fixed = {name for name, array in weights.items() if array.dtype != np.float32 or "running" in name}
    return {name: array if name in fixed else array * np.float32(factor) for name, array in weights.items()}


@pytest.fixture(scope="module")
def found() -> Predictions:
    """Risks by one network, masks by another."""
    return predict(make_task(), scaled(0.7), scaled(1.0), make_samples(3, seed=4), EDGES)


def outputs_of(weights: Weights) -> tuple[NDArray[Any], NDArray[Any]]:
    """Logits of segmentation and survival, by the network itself."""
    samples = make_samples(3, seed=4)
    model = AdaMSS(make_task().model).eval()
    load_weights(model, weights)
    with torch.inference_mode():
        images = torch.from_numpy(np.stack([sample.image for sample in samples]))
        output = model(images[:, :1], images[:, 1:])
    return output.segmentation.numpy(), output.survival.double().numpy()


def test_risk_is_minus_the_area_under_the_curve_of_the_survival_model(found: Predictions) -> None:
    """Its sigmoids multiplied up and integrated by numpy."""
    curve = np.cumprod(1 / (1 + np.exp(-outputs_of(scaled(0.7))[1])), axis=1)
    assert len(np.unique(found.risk)) == 3
    np.testing.assert_allclose(found.survival, curve, rtol=1e-6)
    np.testing.assert_allclose(found.risk, -(curve * np.diff(EDGES)).sum(axis=1), rtol=1e-6)


def test_overlap_counts_the_voxels_of_the_segmentation_model(found: Predictions) -> None:
    predicted = outputs_of(scaled(1.0))[0] > 0
    reference = np.stack([sample.mask for sample in make_samples(3, seed=4)]).astype(bool)
    assert predicted.any()
    counts = [mask.sum(axis=(2, 3, 4)) for mask in (predicted & reference, predicted, reference)]
    np.testing.assert_array_equal(found.overlap, np.stack(counts, axis=-1))


def test_outcomes_and_names_are_the_samples_own_in_their_order(found: Predictions) -> None:
    samples = make_samples(3, seed=4)
    assert found.patient.tolist() == [sample.patient_id for sample in samples]
    assert found.time_days.tolist() == [sample.time_days for sample in samples]
    assert found.event.tolist() == [sample.event for sample in samples]
    assert found.edges_days.tolist() == list(EDGES)


def test_predictions_survive_the_disk(found: Predictions, tmp_path: Path) -> None:
    found.save(tmp_path / "new" / "p.npz")
    assert_equal(Predictions.load(tmp_path / "new" / "p.npz"), found)
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["p.npz"]


def test_a_file_that_holds_no_predictions_is_refused_by_name(found: Predictions, tmp_path: Path) -> None:
    path = tmp_path / "p.npz"
    found.save(path)
    whole = path.read_bytes()
    for spoilt in (b"", b"not a zip", whole[: len(whole) // 2]):
        path.write_bytes(spoilt)
        with pytest.raises(InputError, match=r"p\.npz: holds no predictions"):
            Predictions.load(path)
    np.savez(path, risk=np.zeros(2))
    with pytest.raises(InputError, match=r"p\.npz: holds no predictions"):
        Predictions.load(path)
    with pytest.raises(InputError, match="none"):
        Predictions.load(tmp_path / "none.npz")


def test_pickled_objects_are_never_loaded(found: Predictions, tmp_path: Path) -> None:
    arrays = {name: getattr(found, name) for name in NAMES} | {"patient": np.array([{"a": 1}] * 3, dtype=object)}
    np.savez(tmp_path / "p.npz", **arrays)
    with pytest.raises(InputError, match="holds no predictions"):
        Predictions.load(tmp_path / "p.npz")


def test_parts_joined_are_the_whole(found: Predictions) -> None:
    chosen = np.array([True, False, True])
    parts = join([found.subset(chosen), found.subset(~chosen)])
    assert_equal(parts, found.subset(np.array([0, 2, 1])))
    assert_equal(join([found.subset(np.array([0])), found.subset(np.array([1, 2]))]), found)
