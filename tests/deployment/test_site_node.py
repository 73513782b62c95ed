"""A hospital's settings, and the processes that are started from its kit."""

import stat
import subprocess
from pathlib import Path

import pytest

from adamss_fl.deployment import knock
from adamss_fl.deployment.site_node import KIT_VARIABLE, programs, read_site_settings, shared_secret
from adamss_fl.errors import InputError


def kit(tmp_path: Path, text: str) -> Path:
    (tmp_path / "data").mkdir(exist_ok=True)
    (tmp_path / "site.yaml").write_text(text)
    return tmp_path


def test_folders_start_from_the_file(tmp_path: Path) -> None:
    found = read_site_settings(kit(tmp_path, "path: data\nstate: here/state\nport: 9100\n"))
    assert (found.path, found.state) == (tmp_path / "data", tmp_path / "here/state")
    assert (found.layout, found.device, found.port) == ("hecktor2022", "cpu", 9100)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("path: data\nstate: s\nprot: 1\n", r"site\.yaml:3: prot: unknown key 'prot'; did you mean 'port'"),
        ("path: data\n", "state is missing"),
        ("state: s\n", "path is missing"),
        ("path: nowhere\nstate: s\n", r"site\.yaml:1: path: no folder .*nowhere"),
        ("path: data\nstate: s\nport: 70000\n", r"site\.yaml:3: port: must be between 1 and 65535"),
        ("path: data\nstate: s\ndevice: cuda:1\n", r"site\.yaml:3: device: must be auto, cpu or cuda, not 'cuda:1'"),
        ("path: data\nstate: s\nport: true\n", "must be a whole number"),
        ("path: 7\nstate: s\n", "must be a text"),
    ],
)
def test_a_mistake_is_named_with_its_line(tmp_path: Path, text: str, reason: str) -> None:
    with pytest.raises(InputError, match=reason):
        read_site_settings(kit(tmp_path, text))


def test_the_secret_is_made_once_and_only_the_owner_may_read_it(tmp_path: Path) -> None:
    path = shared_secret(tmp_path / "state")
    first = path.read_bytes()
    assert len(first) == 32
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert shared_secret(tmp_path / "state").read_bytes() == first
    path.chmod(0o644)
    with pytest.raises(InputError, match="others may read it"):
        shared_secret(tmp_path / "state")


def test_messages_come_through_the_door_and_over_tls(tmp_path: Path) -> None:
    settings = read_site_settings(kit(tmp_path, "path: data\nstate: state\n"))
    node, executor, clients = programs(
        tmp_path, settings, "fl.example.org:8000", tmp_path / "ca.crt", tmp_path / "site.key"
    )
    assert "--insecure" not in node.command
    assert node.command[node.command.index("--root-certificates") + 1] == str(tmp_path / "ca.crt")
    assert node.command[node.command.index("--isolation") + 1] == "process"
    assert executor.environment[KIT_VARIABLE] == str(tmp_path)
    assert executor.after_port == settings.port
    found = subprocess.run(
        ["/bin/sh", "-c", "command -v flwr-clientapp"],
        env={"PATH": executor.environment["PATH"]},
        capture_output=True,
        text=True,
    )
    door = Path(found.stdout.strip())
    assert door == tmp_path / "state/door/flwr-clientapp"
    assert str(Path(knock.__file__)) in door.read_text()
    assert clients.command[-1] == str(door.parent)
    assert clients.environment == executor.environment
