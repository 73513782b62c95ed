"""The published settings on a cohort in the authors' layout, shrunk: it is read unchanged, and it trains."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from adamss_fl.assembly import load_site_data
from adamss_fl.cli.main import main
from adamss_fl.config import load_config
from adamss_fl.federation.checkpoint import Checkpoints
from adamss_fl.federation.events import read_events
from adamss_fl.run_config import RunConfig
from adamss_fl.training.schedule import learning_rate

CONFIG = Path(__file__).parents[1] / "configs" / "reference.yaml"
SIDE, CROP, PATIENTS = 48, 32, 8
SHRUNK = (
    f"imaging.grid=[{SIDE}, {SIDE}, {SIDE}]",
    f"augmentation.1.size=[{CROP}, {CROP}, {CROP}]",
    "model.width=1",
    "plan.segmentation_rounds=1",
    "plan.survival_rounds=1",
    "plan.steps=1",
    "split.test=0.25",
    "runtime.device=cpu",
    "runtime.threads=1",
    "evaluation.bootstrap=10",
)

Arrays = dict[str, NDArray[np.float32]]


@pytest.fixture(scope="module")
def cohort(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Arrays]]:
    """The folder, and each patient's arrays as written."""
    folder = tmp_path_factory.mktemp("reference")
    rng = np.random.default_rng(0)
    written: dict[str, Arrays] = {}
    for index in range(PATIENTS):
        tumour, node = np.zeros((2, SIDE, SIDE, SIDE), np.float32)
        at = rng.integers(10, 30, size=3)
        tumour[tuple(slice(a, a + 6) for a in at)] = 1
        node[tuple(slice(a + 7, a + 10) for a in at)] = 1
        arrays = {
            "PET": (rng.random((SIDE, SIDE, SIDE)) * 4 + 8 * tumour).astype(np.float32),
            "CT": (rng.random((SIDE, SIDE, SIDE)) * 200 - 50).astype(np.float32),
            "Seg_Tumor": tumour,
            "Seg_Node": node,
        }
        name = f"P{index:03d}"
        written[name] = arrays
        np.savez(folder / f"{name}.npz", **arrays, Time=np.array(200.0 + 300 * index), Event=np.array(index % 2))
    with (folder / "Clinical_info.csv").open("w", newline="") as file:
        rows = [{"Patient": name, "Event": i % 2, "Age": 50 + i, "Gender": "M"} for i, name in enumerate(written)]
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return folder, written


def overrides(folder: Path) -> list[str]:
    return [f"sites.0.path={folder}", f"cache={folder / 'cache'}", *SHRUNK]


def test_the_published_settings_are_those_of_the_paper() -> None:
    config = load_config(CONFIG)
    assert (config.model.width, config.model.norm, config.imaging.grid) == (8, "batch", (160, 160, 160))
    assert [plugin.name for plugin in config.augmentation] == ["affine", "crop"]
    assert config.stages.edges_days == (0, 300, 600, 900, 1100, 1300, 1500, 2100, 2700, 3500, 6000)
    blocks = config.plan.resolved()
    assert [(block.stages, block.rounds, block.steps) for block in blocks] == [
        (("segmentation",), 50, 200),
        (("survival",), 50, 200),
    ]
    rates = {stage: epoch_rates(config, stage) for stage in ("segmentation", "survival")}
    assert rates["segmentation"] == pytest.approx([1e-4] * 20 + [5e-5] * 20 + [1e-5] * 10)
    assert rates["survival"] == pytest.approx([5e-5] * 20 + [1e-5] * 20 + [1e-6] * 10)


def epoch_rates(config: RunConfig, stage: str) -> list[float]:
    return [learning_rate(getattr(config.stages, stage), (epoch + 0.5) / 50) for epoch in range(50)]


def test_the_cohort_is_read_unchanged(cohort: tuple[Path, dict[str, Arrays]], tmp_path: Path) -> None:
    folder, written = cohort
    data = load_site_data(load_config(CONFIG, overrides(folder)), "reference", tmp_path)
    samples = {sample.patient_id: sample for part in (data.train, data.test) for sample in part}
    assert samples.keys() == written.keys()
    for index, (name, arrays) in enumerate(written.items()):
        sample = samples[name]
        np.testing.assert_allclose(sample.image[0], arrays["PET"] / 20, atol=1e-6)
        np.testing.assert_allclose(sample.image[1], (arrays["CT"] + 250) / 500, atol=1e-6)
        np.testing.assert_array_equal(sample.mask, np.stack([arrays["Seg_Tumor"], arrays["Seg_Node"]]))
        assert (sample.time_days, sample.event, sample.has_mask) == (200.0 + 300 * index, index % 2, True)
        assert (sample.clinical["age_years"], sample.clinical["sex"]) == (50 + index, "M")


def test_one_step_of_each_stage_on_crops_and_inference_on_the_whole_box(
    cohort: tuple[Path, dict[str, Arrays]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    changes = [part for change in overrides(cohort[0]) for part in ("--set", change)]
    assert main(["train", str(CONFIG), "--out", str(tmp_path / "run"), "--json", *changes]) == 0
    said = json.loads(capsys.readouterr().out)
    assert said["rounds"] == 2
    assert set(said["dsc"]) == {"tumour", "nodes"}
    steps = [e["figures"]["steps"] for e in read_events(tmp_path / "run" / "events.jsonl") if e["kind"] == "train"]
    assert steps == [1, 1]
    first, last = (Checkpoints(tmp_path / "run" / "checkpoints").load(round_).weights for round_ in (0, 2))
    assert any(not np.array_equal(first[name], last[name]) for name in first)
    with np.load(tmp_path / "run" / "predictions.npz") as found:
        assert found["overlap"].shape == (2, 2, 3)
        # The reference masks are counted whole: a crop would have lost some of their voxels.
        assert found["overlap"][:, :, 2].tolist() == [[216, 27], [216, 27]]
