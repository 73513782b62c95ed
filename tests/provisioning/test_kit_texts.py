"""Start scripts as a shell runs them, units as systemd reads them, settings as YAML, and the README of hospital IT."""

import configparser
import os
import subprocess
from pathlib import Path

import pytest
import yaml
from consortium_office import Office


@pytest.fixture
def command(tmp_path: Path) -> Path:
    """A folder with a command ``adamss-fl`` that prints its arguments, one a line."""
    path = tmp_path / "bin" / "adamss-fl"
    path.parent.mkdir()
    path.write_text("#!/bin/sh\nprintf '%s\\n' \"$@\"\n")
    path.chmod(0o755)
    return path.parent


@pytest.mark.parametrize("role", ["site", "server"])
def test_start_runs_the_kit_it_lies_in_from_anywhere(office: Office, command: Path, tmp_path: Path, role: str) -> None:
    kit = tmp_path / "a folder with 'quotes' and $signs"
    (office.server if role == "server" else office.site("north")).rename(kit)
    environment = {"PATH": f"{command}:{os.environ['PATH']}", "CDPATH": str(tmp_path)}
    for cwd, script in ((tmp_path, f"{kit.name}/start.sh"), (kit, "./start.sh"), (Path("/"), str(kit / "start.sh"))):
        done = subprocess.run(
            [script], cwd=cwd, env=environment, capture_output=True, text=True, check=True, timeout=60
        )
        assert done.stdout.splitlines() == [role, "start", str(kit)]
    done = subprocess.run(  # as the unit does
        ["/bin/sh", "start.sh"], cwd=kit, env=environment, capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout.splitlines() == [role, "start", str(kit)]


def test_start_says_so_where_the_software_is_not_installed(made: Office) -> None:
    script = made.site("north") / "start.sh"
    done = subprocess.run(
        ["/bin/sh", script], env={"PATH": "/usr/bin:/bin"}, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 1
    assert done.stderr.startswith("start.sh: there is no command adamss-fl on the PATH")


HARDENING = {
    "NoNewPrivileges": "yes",
    "ProtectSystem": "strict",
    "ProtectHome": "read-only",
    "PrivateTmp": "yes",
    "CapabilityBoundingSet": "",
    "RestrictSUIDSGID": "yes",
    "UMask": "0077",
}


@pytest.mark.parametrize("role", ["site", "server"])
def test_the_unit_is_hardened_and_what_differs_by_machine_is_marked(made: Office, role: str) -> None:
    path = (made.server if role == "server" else made.site("north")) / f"adamss-fl-{role}.service"
    text = path.read_text()
    unit = configparser.ConfigParser(interpolation=None, comment_prefixes=("#",))
    unit.optionxform = str  # type: ignore[assignment,method-assign]
    unit.read_string(text)
    service = dict(unit["Service"])
    assert {key: service[key] for key in HARDENING} == HARDENING
    assert (service["ExecStart"], service["Restart"]) == ("/bin/sh start.sh", "always")
    marked = text[text.index("# ==== EDIT:") : text.index("# ==== EDIT ends")]
    to_edit = {line.partition("=")[0] for line in text.splitlines() if "EDIT" in line and not line.startswith("#")}
    assert to_edit == {"WorkingDirectory", "ReadWritePaths", "Environment", "User"}
    assert all(f"{key}=" in marked for key in to_edit)
    assert service["WorkingDirectory"] == service["ReadWritePaths"]


def test_a_sites_settings_and_policy_are_yaml_with_every_key_to_edit(made: Office) -> None:
    site = yaml.safe_load((made.site("north") / "site.yaml").read_text())
    assert set(site) == {"path", "layout", "state", "device", "port"}
    assert "EDIT" in site["path"]
    assert (site["layout"], site["state"]) == ("hecktor2022", "state")
    policy = yaml.safe_load((made.site("north") / site["state"] / "policy.yaml").read_text())
    assert policy == {"runs": ["*"], "min_patients": 5, "min_cell": 5}


def test_the_readme_names_the_three_things_and_the_server(made: Office) -> None:
    text = (made.site("north") / "README.md").read_text()
    for number, thing in enumerate(("Outbound port", "Data folder", "Policy"), start=1):
        assert f"\n{number}. **{thing}.**" in text
    assert "\n4. " not in text
    assert "to fl.example.org, port 8443" in text
    assert "2026-06-09 12:00" in text
    assert "{" not in text
    assert "{" not in (made.server / "README.md").read_text()
