"""The whole federation on Flower's real simulation engine, against the same run over LocalSites."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from adamss_fl.assembly import build_site, run_federation
from adamss_fl.cohort import make_phantom
from adamss_fl.config import load_config
from adamss_fl.federation.local_sites import LocalSites

pytestmark = [pytest.mark.slow, pytest.mark.network]

CONFIG = """
name: tiny
sites: [{sites}]
cache: {cache}
split: {{test: 0.3}}
imaging: {{grid: [32, 32, 32], spacing_mm: [4.0, 4.0, 4.0]}}
augmentation: [affine, flip]
model: {{width: 1, bins: 4}}
tabular: {{clinical: [{{name: age_years}}, {{name: hpv, kind: binary}}]}}
stages:
  segmentation: {{learning_rate: 1.0e-2, batch_size: 2}}
  survival: {{learning_rate: 1.0e-2, batch_size: 2}}
plan: {{preset: sequential, segmentation_rounds: 2, survival_rounds: {rounds}, epochs: null, steps: 2}}
federation: {{min_sites: {count}, deadline_seconds: 300, groups: {{norm_statistics: moments}}}}
runtime: {{device: cpu, precision: fp32, threads: 1}}
"""


@pytest.fixture(scope="module")
def hospitals(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("hospitals")
    make_phantom(folder / "phantom", sites=3, patients=12, size=32, seed=0)
    return folder


def configuration(folder: Path, names: list[str], rounds: int = 2, **paths: str) -> Path:
    path = folder / f"{'-'.join(names)}-{rounds}-{len(paths)}.yaml"
    sites = ", ".join(f"{{name: {name}, path: {paths.get(name, f'phantom/{name}')}}}" for name in names)
    path.write_text(CONFIG.format(sites=sites, cache=folder / "cache", rounds=rounds, count=len(names)))
    return path


def in_this_process(config: Path, out: Path) -> dict[str, bytes]:
    settings = load_config(config)
    sites = [build_site(settings, site.name, out / "sites" / site.name) for site in settings.sites]
    run_federation(settings, LocalSites(sites), out)
    return weights(out)


def weights(out: Path) -> dict[str, bytes]:
    """Every checkpoint's bytes by round."""
    return {path.parent.name: path.read_bytes() for path in sorted(out.glob("checkpoints/*/model.safetensors"))}


def start(config: Path, out: Path, home: Path) -> "subprocess.Popen[str]":
    """The command as a user gives it, in a folder with modules named as the app's own."""
    home.mkdir(exist_ok=True)
    for name in ("client", "server"):
        (home / f"{name}.py").write_text("raise SystemExit('the wrong module')\n")
    return subprocess.Popen(
        [sys.executable, "-P", "-m", "adamss_fl.cli.main", "simulate", str(config), "--out", str(out), "--json"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=home,
        env={**os.environ, "HOME": str(home)},
        # A shell's background jobs ignore the interrupt, and what they start inherits that.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )


def processes_of(home: Path) -> list[str]:
    """Command lines of living processes that were started with this home folder."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if f"HOME={home}".encode() in (folder / "environ").read_bytes().split(b"\0"):
                found.append((folder / "cmdline").read_bytes().replace(b"\0", b" ").decode())
        except OSError:
            continue
    return found


def assert_nothing_left(home: Path) -> None:
    assert processes_of(home) == []
    assert sorted(path.name for path in home.iterdir()) == ["client.py", "server.py"]
    with socket.socket() as probe:
        assert probe.connect_ex(("127.0.0.1", 39091)) != 0


@pytest.mark.parametrize("names", [["hospital-1", "hospital-2", "hospital-3"], ["hospital-2"]])
def test_a_simulated_run_equals_the_run_in_one_process_bit_for_bit(hospitals, tmp_path, names):
    config = configuration(hospitals, names)
    command = start(config, tmp_path / "run", tmp_path / "home")
    stdout, stderr = command.communicate(timeout=400)
    assert command.returncode == 0, stderr
    result = json.loads(stdout)
    assert result["rounds"] == 4
    assert result["sites"] == names
    assert_nothing_left(tmp_path / "home")

    expected = in_this_process(config, tmp_path / "local")
    assert len(expected) >= 2
    assert weights(tmp_path / "run") == expected
    metrics = [json.loads((tmp_path / run / "metrics.json").read_text()) for run in ("run", "local")]
    for each in metrics:
        each.pop("run")
    assert metrics[0] == metrics[1]


def test_an_interrupted_run_leaves_no_process_and_goes_on_to_the_same_weights(hospitals, tmp_path):
    config = configuration(hospitals, ["hospital-1", "hospital-3"], rounds=16)  # so that the cut comes before the end
    command = start(config, tmp_path / "run", tmp_path / "home")
    limit = time.monotonic() + 300
    while not list((tmp_path / "run").glob("checkpoints/round-0002/state.json")) and time.monotonic() < limit:
        time.sleep(0.05)
    command.send_signal(signal.SIGINT)
    _, stderr = command.communicate(timeout=60)
    assert command.returncode == 130, stderr
    assert stderr.splitlines()[-1] == "interrupted"
    assert_nothing_left(tmp_path / "home")
    assert not (tmp_path / "run/metrics.json").exists()

    again = start(config, tmp_path / "run", tmp_path / "home")
    _, stderr = again.communicate(timeout=400)
    assert again.returncode == 0, stderr
    assert '"kind": "resume"' in (tmp_path / "run/events.jsonl").read_text()
    last = in_this_process(config, tmp_path / "local")["round-0018"]
    assert weights(tmp_path / "run")["round-0018"] == last


def test_a_run_that_is_killed_takes_all_its_processes_with_it(hospitals, tmp_path):
    config = configuration(hospitals, ["hospital-1"], rounds=5)
    command = start(config, tmp_path / "run", tmp_path / "home")
    limit = time.monotonic() + 300
    while not (tmp_path / "run/events.jsonl").exists() and time.monotonic() < limit:
        time.sleep(0.05)
    command.kill()
    command.communicate(timeout=60)
    limit = time.monotonic() + 20
    while processes_of(tmp_path / "home") and time.monotonic() < limit:
        time.sleep(0.1)
    assert processes_of(tmp_path / "home") == []


def test_a_volume_that_cannot_be_read_at_a_site_is_one_line_with_exit_code_2(hospitals, tmp_path):
    broken = tmp_path / "broken"
    shutil.copytree(hospitals / "phantom/hospital-2", broken)
    for volume in broken.glob("imagesTr/*__PT.nii.gz"):
        volume.write_bytes(b"no image")
    config = configuration(hospitals, ["hospital-2"], **{"hospital-2": str(broken)})
    command = start(config, tmp_path / "run", tmp_path / "home")
    stdout, stderr = command.communicate(timeout=300)
    assert command.returncode == 2, stderr
    assert stdout == ""
    *before, line = stderr.splitlines()
    assert not any(each.startswith("error: ") for each in before), stderr
    assert line.startswith(f"error: {config}: site hospital-2: ")
    assert_nothing_left(tmp_path / "home")


def test_a_cohort_that_is_not_there_is_said_before_the_engine_starts(hospitals, tmp_path):
    config = configuration(hospitals, ["hospital-1", "hospital-2"], **{"hospital-2": "phantom/nowhere"})
    command = start(config, tmp_path / "run", tmp_path / "home")
    _, stderr = command.communicate(timeout=60)
    assert command.returncode == 2, stderr
    assert "nowhere" in stderr
    assert not (tmp_path / "run").exists()
