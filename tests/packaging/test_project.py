"""The project's own files agree with each other."""

import subprocess
import tomllib
from importlib.metadata import version
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

from adamss_fl import __version__

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
TESTED = {
    canonicalize_name(Requirement(line).name): next(iter(Requirement(line).specifier)).version
    for line in (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    if line and not line.startswith("#")
}
EXTRAS = PROJECT["project"]["optional-dependencies"]


def test_the_version_is_the_same_everywhere() -> None:
    assert PROJECT["project"]["version"] == __version__ == version("adamss-fl")


@pytest.mark.parametrize("text", PROJECT["project"]["dependencies"] + [r for extra in EXTRAS.values() for r in extra])
def test_every_requirement_has_a_tested_version_within_its_range(text: str) -> None:
    requirement = Requirement(text)
    tested = TESTED[canonicalize_name(requirement.name)]
    assert requirement.specifier.contains(Version(tested))


@pytest.mark.parametrize("text", PROJECT["project"]["dependencies"])
def test_the_tests_run_on_the_tested_versions(text: str) -> None:
    name = Requirement(text).name
    assert Version(version(name)).public == TESTED[canonicalize_name(name)]


def test_no_file_of_the_set_up_names_a_registry() -> None:
    for name in ("constraints.txt", "pyproject.toml", "scripts/setup"):
        text = (ROOT / name).read_text(encoding="utf-8")
        assert "index-url" not in text
        assert "find-links" not in text


@pytest.mark.parametrize("name", ["scripts/setup", "scripts/demo", "scripts/test", ".ci/run"])
def test_the_scripts_can_be_run(name: str) -> None:
    path = ROOT / name
    assert path.stat().st_mode & 0o111
    assert path.read_text(encoding="utf-8").startswith("#!/usr/bin/env bash\n")


@pytest.mark.parametrize("name", ["scripts/setup", "scripts/demo"])
def test_a_script_refuses_an_option_it_has_not(name: str) -> None:
    done = subprocess.run([str(ROOT / name), "--nope"], capture_output=True, text=True, timeout=30)
    assert done.returncode == 2
    assert "unknown option '--nope'" in done.stderr
