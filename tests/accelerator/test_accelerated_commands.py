"""The commands of a site and of a developer, each in processes of its own, on the accelerator that they find."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from safetensors.numpy import load_file
from stand_in import environment_with_stand_in, users

from adamss_fl.assembly import build_site, run_federation
from adamss_fl.cohort import make_phantom
from adamss_fl.config import load_config
from adamss_fl.federation.local_sites import LocalSites

pytestmark = pytest.mark.slow

SITES = ("hospital-1", "hospital-2")
SETTINGS: dict[str, Any] = {
    "name": "accelerated",
    "split": {"test": 0.4},
    "imaging": {"grid": [32, 32, 32], "spacing_mm": [6.0, 6.0, 6.0]},
    "augmentation": ["affine", "flip"],
    "model": {"width": 2, "bins": 2},
    "plan": {"segmentation_rounds": 1, "survival_rounds": 1, "epochs": 1},
    "stages": {
        stage: {"batch_size": 2, "learning_rate": 1e-3, "optimizer": "sgd"} for stage in ("segmentation", "survival")
    },
    "federation": {"min_sites": 2, "deadline_seconds": 300},
    "runtime": {"device": "auto", "precision": "fp32", "channels_last": False, "threads": 1},
    "evaluation": {"bootstrap": 5},
}


class Machine:
    """A machine with an accelerator: two cohorts, a configuration, and commands."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.environment = {**environment_with_stand_in(folder), "OMP_NUM_THREADS": "1", "HOME": str(folder)}
        phantom = make_phantom(folder / "phantom", sites=2, patients=7, size=32, seed=1, workers=1)
        self.cohorts = dict(zip(SITES, phantom.folders, strict=True))
        sites = [{"name": name, "path": str(path)} for name, path in self.cohorts.items()]
        self.config = folder / "config.yaml"
        self.config.write_text(yaml.safe_dump({**SETTINGS, "sites": sites, "cache": str(folder / "cache")}))

    def run(self, *arguments: object, program: str = "adamss_fl.cli.main") -> None:
        """A command to its end; a process whose command line holds ``program`` has then used the accelerator."""
        before = len(self.processes(program))
        done = subprocess.run(
            [sys.executable, "-P", "-m", "adamss_fl.cli.main", *map(str, arguments)],
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=600,
        )
        assert done.returncode == 0, done.stderr[-3000:]
        assert len(self.processes(program)) > before, "no process used the accelerator"

    def processes(self, program: str) -> list[str]:
        return [line for line in users(self.folder) if program in line]


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory) -> Machine:
    return Machine(tmp_path_factory.mktemp("machine"))


@pytest.fixture(scope="module")
def run(machine: Machine) -> Path:
    """A finished run, trained with ``train``."""
    out = machine.folder / "trained"
    machine.run("train", machine.config, "--out", out)
    return out


@pytest.fixture(scope="module")
def run_on_cpu(machine: Machine) -> Path:
    """The same with ``runtime.device`` set to the CPU."""
    out = machine.folder / "trained-on-cpu"
    used = users(machine.folder)
    with pytest.raises(AssertionError, match="no process used the accelerator"):
        machine.run("train", machine.config, "--out", out, "--set", "runtime.device=cpu")
    assert users(machine.folder) == used
    return out


def weights(run: Path) -> dict[str, np.ndarray]:
    found: dict[str, np.ndarray] = load_file(sorted(run.glob("checkpoints/*/model.safetensors"))[-1])
    return found


def assert_close(first: Path, second: Path) -> None:
    here, there = weights(first), weights(second)
    for name in there:
        np.testing.assert_allclose(here[name], there[name], rtol=1e-6, atol=1e-6, err_msg=name)


def test_train_equals_the_cpu(run: Path, run_on_cpu: Path) -> None:
    assert_close(run, run_on_cpu)


def test_predict(machine: Machine, run: Path) -> None:
    cohort = machine.cohorts["hospital-2"]
    machine.run("predict", run, "--cohort", cohort, "--out", machine.folder / "predicted", "--quick")
    assert len(list((machine.folder / "predicted").rglob("*.nii.gz"))) >= 7


def test_evaluate(machine: Machine, run: Path) -> None:
    machine.run("evaluate", run, machine.cohorts["hospital-2"], "--split", "test")
    assert list((run / "evaluations").rglob("*.npz"))


def test_explain(machine: Machine, run: Path) -> None:
    machine.run("explain", run, "--patients", "1")
    assert json.loads((run / "focus/focus.json").read_text())["stages"]


def test_simulate_equals_the_cpu(machine: Machine) -> None:
    out, local = machine.folder / "simulated", machine.folder / "local"
    machine.run("simulate", machine.config, "--out", out, program="ray::")
    config = load_config(machine.config, ["runtime.device=cpu"])
    run_federation(config, LocalSites([build_site(config, name, local / "sites" / name) for name in SITES]), local)
    assert_close(out, local)


def test_compare(machine: Machine) -> None:
    out = machine.folder / "compared"
    machine.run("compare", machine.config, "--out", out, "--transport", "local", "--jobs", "1")
    assert set(json.loads((out / "comparison.json").read_text())["arms"]) >= {"federated", "pooled"}
