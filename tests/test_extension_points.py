"""What each extension point asks of a plugin, held against every one that is registered.

That a plugin describes itself, can be made and refuses foreign settings: see ``test_plugins``.
"""

import copy
import importlib.util
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from adamss_fl.cohort import load_cohort
from adamss_fl.cohort.layouts import Layout
from adamss_fl.errors import InputError
from adamss_fl.federation.aggregation import Aggregator, Contribution
from adamss_fl.federation.events import EventLog
from adamss_fl.federation.flower_strategies import USABLE
from adamss_fl.federation.messages import Weights
from adamss_fl.imaging.augmentation import Augmentation
from adamss_fl.plugins import create, installed
from adamss_fl.radiomics.extraction import FeatureExtractor

# --- aggregator -------------------------------------------------------------------------------------------------------

AGGREGATORS = [info.name for info in installed("aggregator") if info.name != "flower"]
AGGREGATORS += [f"flower:{name}" for name in USABLE]
NEEDS_MANY_SITES: dict[str, dict[str, Any]] = {"flower:Bulyan": {"num_malicious_nodes": 1}}
PATIENTS = (12, 30, 7, 20, 16, 9, 11)


def tensors(seed: int) -> Weights:
    rng = np.random.default_rng(seed)
    return {
        "bn.running_mean": rng.normal(size=3).astype(np.float32),
        "bn.running_var": rng.uniform(0.5, 2, 3).astype(np.float32),
        "layer.bias": rng.normal(size=(1,)).astype(np.float32),
        "layer.weight": rng.normal(size=(2, 3)).astype(np.float32),
    }


def replies(round_: int) -> list[Contribution]:
    return [Contribution(f"site-{k}", n, tensors(100 * round_ + k)) for k, n in enumerate(PATIENTS)]


def aggregator(name: str) -> Aggregator:
    made: Aggregator = create("aggregator", name, NEEDS_MANY_SITES.get(name, {}))
    return made


@pytest.fixture
def _quick_flower(monkeypatch: pytest.MonkeyPatch) -> None:
    """Bulyan forces a garbage collection per reply, a fifth of a second each once torch is loaded."""
    monkeypatch.setattr("flwr.app.message.arrayrecord.gc.collect", lambda: 0)


@pytest.mark.usefixtures("_quick_flower")
@pytest.mark.parametrize("name", AGGREGATORS)
def test_an_aggregator_gives_finite_tensors_like_the_current_ones_and_changes_no_input(name: str) -> None:
    current, parts = tensors(0), replies(1)
    before = copy.deepcopy((current, parts))
    found = aggregator(name).aggregate(current, parts, 1)
    assert found.keys() == current.keys()
    for key, array in found.items():
        assert (array.shape, array.dtype) == (current[key].shape, current[key].dtype)
        assert np.isfinite(array).all()
    assert all(np.array_equal(current[key], before[0][key]) for key in current)
    for part, kept in zip(parts, before[1], strict=True):
        assert all(np.array_equal(part.weights[key], kept.weights[key]) for key in current)


@pytest.mark.usefixtures("_quick_flower")
@pytest.mark.parametrize("name", AGGREGATORS)
def test_an_aggregator_resumed_from_its_state_goes_on_bit_for_bit(name: str) -> None:
    """Its state is named float arrays without a scalar, which is what a checkpoint can hold."""
    whole, stopped = aggregator(name), aggregator(name)
    first = whole.aggregate(tensors(0), replies(1), 1)
    again = stopped.aggregate(tensors(0), replies(1), 1)
    state = {key: array.copy() for key, array in stopped.state().items()}
    assert all(array.ndim > 0 and np.issubdtype(array.dtype, np.floating) for array in state.values())
    resumed = aggregator(name)
    resumed.load_state(state)
    expected, found = whole.aggregate(first, replies(2), 2), resumed.aggregate(again, replies(2), 2)
    assert all(expected[key].tobytes() == found[key].tobytes() for key in expected)


@pytest.mark.usefixtures("_quick_flower")
@pytest.mark.parametrize("name", AGGREGATORS)
def test_an_aggregator_moves_nothing_where_every_site_sends_the_current_tensors(name: str) -> None:
    current = tensors(0)
    parts = [Contribution(part.site, part.patients, tensors(0)) for part in replies(1)]
    found = aggregator(name).aggregate(current, parts, 1)
    for key, array in found.items():
        np.testing.assert_allclose(array, current[key], rtol=1e-5, atol=1e-6, err_msg=key)


# --- augmentation -----------------------------------------------------------------------------------------------------

AUGMENTATIONS = [info.name for info in installed("augmentation")]
SIZED: dict[str, dict[str, Any]] = {"crop": {"size": [16, 16, 16]}}


@pytest.mark.parametrize("name", AUGMENTATIONS)
def test_an_augmentation_moves_images_and_masks_together_as_the_generator_says(name: str) -> None:
    made: Augmentation = create("augmentation", name, SIZED.get(name, {}))
    shape = (3, 2, 16, 16, 32) if name == "crop" else (3, 2, 16, 16, 16)
    mask = (torch.rand(shape, generator=torch.Generator().manual_seed(0)) > 0.5).float()
    image = torch.where(mask > 0.5, 0.75, 0.25)
    kept = image.clone(), mask.clone()
    first, again = (made(image, mask, torch.Generator().manual_seed(7)) for _ in range(2))
    for one, two in zip(first, again, strict=True):
        assert torch.equal(one, two)
    assert torch.equal(image, kept[0])
    assert torch.equal(mask, kept[1])
    moved, moved_mask = first
    assert moved.shape == moved_mask.shape
    assert moved.shape[:2] == (3, 2)
    assert all(side % 16 == 0 for side in moved.shape[2:])
    assert moved.dtype == image.dtype
    assert float(moved.min()) >= 0
    assert float(moved.max()) <= 1
    assert set(moved_mask.unique().tolist()) <= {0.0, 1.0}
    inside, outside = moved[moved_mask > 0.5].mean(), moved[moved_mask < 0.5].mean()
    assert inside > outside


# --- feature_extractor ------------------------------------------------------------------------------------------------

EXTRACTORS = [
    pytest.param(
        info.name,
        marks=pytest.mark.skipif(
            info.name == "pyradiomics" and importlib.util.find_spec("radiomics.featureextractor") is None,
            reason="pyradiomics is not installed",
        ),
    )
    for info in installed("feature_extractor")
]


def blob(radius: float) -> tuple[Any, Any, Any]:
    """SUV, HU and a ball's mask, (16, 18, 20) each."""
    rng = np.random.default_rng(0)
    shape = (16, 18, 20)
    mask = sum((g - 8.0) ** 2 for g in np.indices(shape)) <= radius**2
    return rng.gamma(2.0, 1.0, shape) + 4.0 * mask, rng.normal(30.0, 40.0, shape), mask


@pytest.mark.parametrize("name", EXTRACTORS)
def test_an_extractor_returns_what_it_names_the_same_each_time_and_changes_no_input(name: str) -> None:
    made: FeatureExtractor = create("feature_extractor", name)
    names = made.names()
    assert len(set(names)) == len(names) > 0
    suv, hu, mask = blob(4.0)
    kept = suv.copy(), hu.copy(), mask.copy()
    first, again = (create("feature_extractor", name)(suv, hu, mask, (3.0, 2.0, 1.0)) for _ in range(2))
    assert tuple(first) == names
    assert all(isinstance(value, float) and not np.isinf(value) for value in first.values())
    np.testing.assert_array_equal(list(first.values()), list(again.values()))
    assert sum(np.isfinite(value) for value in first.values()) > 0
    for array, before in zip((suv, hu, mask), kept, strict=True):
        np.testing.assert_array_equal(array, before)


@pytest.mark.parametrize("name", EXTRACTORS)
def test_an_extractor_sees_both_images_and_gives_nan_rather_than_fails_where_a_mask_is_thin(name: str) -> None:
    made: FeatureExtractor = create("feature_extractor", name)
    suv, hu, mask = blob(4.0)
    first = made(suv, hu, mask, (2.0, 2.0, 2.0))
    other = made(suv[::-1].copy(), hu, mask, (2.0, 2.0, 2.0)), made(suv, hu[::-1].copy(), mask, (2.0, 2.0, 2.0))
    assert all(any(first[key] != changed[key] for key in first) for changed in other)
    for thin in ((8, 8, slice(2, 14)), (8, slice(4, 9), slice(4, 9)), (8, 8, 8)):
        mask = np.zeros_like(mask)
        mask[thin] = True
        values = made(suv, hu, mask, (2.0, 2.0, 2.0))
        assert tuple(values) == made.names()
        assert not any(np.isinf(value) for value in values.values())


# --- tracker ----------------------------------------------------------------------------------------------------------

TRACKERS = [
    pytest.param(
        info.name,
        marks=pytest.mark.skipif(
            info.name == "mlflow" and importlib.util.find_spec("mlflow") is None, reason="MLflow is not installed"
        ),
    )
    for info in installed("tracker")
]


@pytest.mark.parametrize("name", TRACKERS)
def test_a_tracker_follows_a_run_and_the_run_that_resumes_it(name: str, tmp_path: Path) -> None:
    """It writes inside the run's folder, and a second start adds to what is there."""
    sizes = []
    for round_ in (1, 2):
        tracker = create("tracker", name)
        log = EventLog(tmp_path / "run" / "events.jsonl", [tracker])
        tracker.start(tmp_path / "run", {"name": "x", "seed": 0, "model": {"width": 2}})
        log.write("round_start", round_, stages=["survival"])
        log.write("train", round_, "a", figures={"loss.survival": 0.5, "gate_opening": [0.5] * 5, "balanced": True})
        log.write("validation", round_, figures={"c_index": None, "dsc": {"tumour": 0.5}})
        tracker.finish()
        sizes.append(sum(path.stat().st_size for path in (tmp_path / "run").rglob("*") if path.is_file()))
    assert sizes[1] > sizes[0]
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


# --- cohort_layout ----------------------------------------------------------------------------------------------------

LAYOUTS = [info.name for info in installed("cohort_layout")]


@pytest.mark.parametrize("name", LAYOUTS)
def test_a_layout_says_where_each_patients_files_and_endpoint_are(name: str) -> None:
    layout = create("cohort_layout", name)
    assert isinstance(layout, Layout)
    assert layout.name == name
    for patterns in (layout.pet, layout.ct, layout.mask):
        assert patterns
        assert all(pattern.count("{id}") == 1 and not Path(pattern).is_absolute() for pattern in patterns)
    assert len(set(layout.mask_labels)) == 2
    assert layout.endpoint.time != layout.endpoint.event
    assert (layout.endpoint.table is None) <= (layout.arrays is not None)
    assert create("cohort_layout", name) == layout


@pytest.mark.parametrize("name", LAYOUTS)
def test_an_empty_folder_is_refused_by_name_in_any_layout(name: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=str(tmp_path)):
        load_cohort(tmp_path, name)
