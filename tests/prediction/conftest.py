"""One tiny finished run and its hospital, for all tests of the room."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from trained_phantom import Trained

from adamss_fl.assembly import load_all_data, run_centralized
from adamss_fl.cohort import make_phantom
from adamss_fl.config import load_config

SETTINGS: dict[str, Any] = {
    "name": "prediction",
    "split": {"test": 0.3},
    "imaging": {"grid": [16, 16, 16], "spacing_mm": [8.0, 8.0, 8.0]},
    "augmentation": [],
    "model": {"width": 1, "bins": 3},
    "plan": {"segmentation_rounds": 1, "survival_rounds": 1, "epochs": 10},  # so that masks are found
    "stages": {"segmentation": {"batch_size": 2, "learning_rate": 1e-2}, "survival": {"batch_size": 2}},
    "runtime": {"device": "cpu", "precision": "fp32", "channels_last": False, "threads": 1},
    "evaluation": {"bootstrap": 5},
}


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    folder = tmp_path_factory.mktemp("prediction")
    hospital = make_phantom(folder / "phantom", sites=1, patients=10, size=16, seed=1, workers=1).folders[0]
    path = folder / "config.yaml"
    path.write_text(yaml.safe_dump({**SETTINGS, "sites": [{"name": "hospital", "path": str(hospital)}]}))
    config = load_config(path)
    run_centralized(config, load_all_data(config, folder / "run"), folder / "run")
    return Trained(folder / "run", hospital)


@pytest.fixture
def copied(trained: Trained, tmp_path: Path) -> Callable[[], Path]:
    """Makes copies of the run that a test may spoil."""

    def copy(name: str = "run") -> Path:
        ignored = shutil.ignore_patterns("cache", "sites")
        return Path(shutil.copytree(trained.run, tmp_path / name, ignore=ignored))

    return copy
