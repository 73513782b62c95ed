"""The built wheel: what it puts into a user's environment, and that it works there from an empty folder."""

import json
import os
import subprocess
import sys
import sysconfig
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]

pytestmark = pytest.mark.slow


@pytest.fixture(scope="session")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built from this checkout with nothing fetched."""
    out = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "-w", str(out), str(ROOT)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    (built,) = out.glob("adamss_fl-*.whl")
    return built


def test_the_wheel_installs_no_top_level_package_but_adamss_fl(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    assert {name.split("/")[0].split("-")[0] for name in names} == {"adamss_fl"}


def test_the_flower_app_travels_inside_the_wheel(wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    for folder in ("server", "client"):
        sources = {f"adamss_fl/flower_app/{p.relative_to(ROOT).as_posix()}" for p in (ROOT / folder).rglob("*.py")}
        assert sources
        assert sources <= names
    assert "adamss_fl/flower_app/pyproject.toml" in names


def test_everything_the_library_reads_travels_inside_the_wheel(wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    for path in (ROOT / "adamss_fl").rglob("*"):
        if path.is_file() and path.suffix not in {".pyc"}:
            assert path.relative_to(ROOT).as_posix() in names


@pytest.fixture(scope="session")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., dict[str, Any]]:
    """``adamss-fl`` of a fresh environment with the wheel; its libraries are this one's, so that nothing is fetched."""
    home = tmp_path_factory.mktemp("fresh")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(home / "venv")], check=True, timeout=120)
    site = home / "venv" / "lib" / f"python{sys.version_info.major}.{sys.version_info.minor}" / "site-packages"
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(site)
    # Every library but this checkout's own install, which a link to the whole folder would bring along.
    libraries = home / "libraries"
    libraries.mkdir()
    for path in Path(sysconfig.get_path("purelib")).iterdir():
        if not path.name.startswith(("adamss_fl", "_adamss_fl", "_editable_impl_adamss_fl", "__editable__")):
            (libraries / path.name).symlink_to(path)
    (site / "libraries.pth").write_text(f"{libraries}\n", encoding="utf-8")
    work = home / "work"
    work.mkdir()
    environment = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "VIRTUAL_ENV")}
    environment["PATH"] = f"{home / 'venv' / 'bin'}{os.pathsep}{environment['PATH']}"

    def call(*arguments: str) -> dict[str, Any]:
        command = [str(home / "venv" / "bin" / "python"), "-m", "adamss_fl.cli.main", *arguments, "--json"]
        done = subprocess.run(command, cwd=work, env=environment, capture_output=True, text=True, timeout=500)
        assert done.returncode == 0, done.stderr
        said: dict[str, Any] = json.loads(done.stdout)
        return said

    return call


def test_the_installed_wheel_registers_its_plugins(installed: Callable[..., dict[str, Any]]) -> None:
    said = installed("plugins")["plugins"]
    assert ("aggregator", "average") in {(plugin["point"], plugin["name"]) for plugin in said}
    assert not [plugin for plugin in said if "does not load" in plugin["description"]]


CONFIG = """\
name: from an empty folder
sites:
  - {name: one, path: hospitals/hospital-1}
  - {name: two, path: hospitals/hospital-2}
split: {test: 0.3}
imaging: {grid: [32, 32, 32], spacing_mm: [4.0, 4.0, 4.0]}
augmentation: []
model: {width: 1, bins: 3}
stages: {segmentation: {batch_size: 2}, survival: {batch_size: 2}}
plan: {segmentation_rounds: 1, survival_rounds: 1, epochs: null, steps: 1}
federation: {min_sites: 2}
runtime: {device: cpu, precision: fp32, threads: 1}
evaluation: {bootstrap: 10}
"""


@pytest.mark.network
def test_the_installed_wheel_makes_phantoms_and_simulates_in_an_empty_folder(
    installed: Callable[..., dict[str, Any]], tmp_path: Path
) -> None:
    hospitals = tmp_path / "hospitals"
    made = installed("phantom", str(hospitals), "--sites", "2", "--patients", "12", "--size", "16")
    assert made["patients"] == 24
    (tmp_path / "config.yaml").write_text(CONFIG, encoding="utf-8")
    said = installed("simulate", str(tmp_path / "config.yaml"), "--out", str(tmp_path / "run"))
    assert said["rounds"] == 2
    assert said["sites"]
    assert list((tmp_path / "run" / "checkpoints").glob("round-*/model.safetensors"))
