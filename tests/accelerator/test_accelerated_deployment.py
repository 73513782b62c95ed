"""A deployed federation whose sites find an accelerator: every message is answered on it, in a process of its own."""

from pathlib import Path

import numpy as np
import pytest
import yaml
from network.processes import Federation, eventually
from safetensors.numpy import load_file
from stand_in import environment_with_stand_in, users

from adamss_fl.assembly import build_site, run_federation
from adamss_fl.cohort import make_phantom
from adamss_fl.config import load_config
from adamss_fl.federation.local_sites import LocalSites

pytestmark = [pytest.mark.slow, pytest.mark.network]

SITES = ("hospital-1", "hospital-2")
STAGE = {"batch_size": 2, "learning_rate": 1e-3, "optimizer": "sgd"}


def configuration(folder: Path, cohorts: dict[str, Path]) -> Path:
    path = folder / "task.yaml"
    settings = {
        "name": "deployed",
        "sites": [{"name": name, "path": str(cohort)} for name, cohort in cohorts.items()],
        "split": {"test": 0.3},
        "imaging": {"grid": [32, 32, 32], "spacing_mm": [6.0, 6.0, 6.0]},
        "augmentation": ["affine", "flip"],
        "model": {"width": 2, "bins": 2},
        "stages": {"segmentation": STAGE, "survival": STAGE},
        "plan": {"segmentation_rounds": 1, "survival_rounds": 1, "epochs": None, "steps": 2},
        "federation": {"min_sites": 2, "deadline_seconds": 200},
        "runtime": {"precision": "fp32", "channels_last": False, "threads": 1},
    }
    path.write_text(yaml.safe_dump(settings))
    return path


def test_a_deployed_run_on_accelerators_equals_the_run_on_the_cpu(tmp_path: Path) -> None:
    phantom = make_phantom(tmp_path / "phantom", sites=2, patients=8, size=32, seed=0, workers=1)
    cohorts = dict(zip(SITES, phantom.folders, strict=True))
    task = configuration(tmp_path, cohorts)
    (tmp_path / "federation").mkdir()
    federation = Federation(tmp_path / "federation", cohorts)
    federation.environment |= {**environment_with_stand_in(tmp_path), "HOME": str(tmp_path), "OMP_NUM_THREADS": "1"}
    for name in SITES:
        settings = federation.site(name) / "site.yaml"
        settings.write_text(settings.read_text().replace("device: cpu", "device: auto"))
    try:
        federation.start("server", *SITES)
        eventually(lambda: set(federation.connected().values()) == {"online"}, 120, federation.logs())
        federation.submit(task, "run")
        federation.wait_until_finished("run", 400)
    finally:
        federation.close()
    on_accelerator = users(tmp_path)
    assert len([line for line in on_accelerator if "adamss_fl.cli.clients" in line]) >= 2 * len(SITES), on_accelerator

    config = load_config(task, ["runtime.device=cpu"])
    sites = [build_site(config, site.name, tmp_path / "local/sites" / site.name) for site in config.sites]
    run_federation(config, LocalSites(sites), tmp_path / "local")
    here, expected = (
        load_file(out / "checkpoints/round-0002/model.safetensors")
        for out in (federation.run("run"), tmp_path / "local")
    )
    for name in expected:
        np.testing.assert_allclose(here[name], expected[name], rtol=1e-6, atol=1e-6, err_msg=name)
