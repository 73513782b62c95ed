"""Processes that answer messages are forked from one that has everything imported, and are as if started anew."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest

from adamss_fl.deployment import knock
from adamss_fl.deployment.site_node import KIT_VARIABLE, programs, read_site_settings


class Kit:
    """A kit whose state folder has a path longer than a socket's may be, and the command that SuperExec finds."""

    def __init__(self, folder: Path) -> None:
        state = folder / ("deep" * 30) / "state"
        state.mkdir(parents=True)
        (folder / "data").mkdir()
        (folder / "site.yaml").write_text(f"path: data\nstate: {state}\n")
        (state / "policy.yaml").write_text("min_patients: 5\n")
        self.folder, self.state = folder, state
        *_, self.parent = programs(folder, read_site_settings(folder), "localhost:1", folder / "ca", folder / "key")
        self.command = [str(state / "door/flwr-clientapp")]
        self.environment = {**os.environ, **self.parent.environment}

    @property
    def socket(self) -> Path:
        return self.state / "door" / knock.SOCKET

    def knock(self, *arguments: str) -> "subprocess.CompletedProcess[str]":
        return subprocess.run(
            [*self.command, *arguments],
            env={**self.environment, "COLUMNS": "200"},
            cwd=self.folder,
            capture_output=True,
            text=True,
            timeout=120,
        )


@pytest.fixture
def kit(tmp_path: Path) -> Kit:
    return Kit(tmp_path)


@pytest.fixture
def parent(kit: Kit) -> Iterator["subprocess.Popen[bytes]"]:
    process = subprocess.Popen(list(kit.parent.command), env=kit.environment)
    try:
        wait_until(kit.socket.exists)
        yield process
    finally:
        process.kill()
        process.wait()


def wait_until(what: Callable[[], bool], seconds: float = 60) -> None:
    limit = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < limit
        time.sleep(0.02)


def children(pid: int) -> list[int]:
    found = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [int(each) for each in found if "Z" not in Path(f"/proc/{each}/stat").read_text().rpartition(")")[2][:3]]


def test_a_forked_process_is_flowers_own_with_the_arguments_output_and_status_of_who_knocked(
    kit: Kit, parent: "subprocess.Popen[bytes]"
) -> None:
    told = kit.knock("--help")
    assert told.returncode == 0, told.stderr
    assert "usage: flwr-clientapp" in told.stdout
    assert "--runtime-api-address" in told.stdout
    wrong = kit.knock("--nonsense")
    assert wrong.returncode == 2
    assert "flwr-clientapp: error" in wrong.stderr
    assert children(parent.pid) == []


def test_without_the_parent_the_same_is_done_slowly(kit: Kit) -> None:
    told = kit.knock("--help")
    assert told.returncode == 0, told.stderr
    assert "--runtime-api-address" in told.stdout
    assert kit.knock("--nonsense").returncode == 2


def test_a_parent_that_was_killed_is_replaced_by_the_next_and_by_the_door_meanwhile(
    kit: Kit, parent: "subprocess.Popen[bytes]"
) -> None:
    parent.kill()
    parent.wait()
    assert kit.socket.exists()  # left behind, with nobody listening
    assert kit.knock("--help").returncode == 0
    again = subprocess.Popen(list(kit.parent.command), env=kit.environment)
    try:
        wait_until(lambda: answers(kit.socket))
        assert kit.knock("--help").returncode == 0
    finally:
        again.kill()
        again.wait()


def answers(path: Path) -> bool:
    """Whether somebody listens; the connection says nothing, which must not harm either."""
    with socket.socket(socket.AF_UNIX) as line:
        handle = os.open(path.parent, os.O_RDONLY)
        try:
            line.connect(f"/proc/self/fd/{handle}/{path.name}")
        except OSError:
            return False
        finally:
            os.close(handle)
    return True


def test_a_process_ends_with_who_knocked_for_it_and_the_other_way_round(
    kit: Kit, parent: "subprocess.Popen[bytes]"
) -> None:
    with closing(socket.create_server(("127.0.0.1", 0))) as silent:  # a SuperNode that never answers
        address = f"127.0.0.1:{silent.getsockname()[1]}"
        arguments = ["--runtime-api-address", address, "--insecure", "--token", "t"]
        for victim_is_the_stub in (True, False):
            stub = subprocess.Popen([*kit.command, *arguments], env=kit.environment, stderr=subprocess.DEVNULL)
            wait_until(lambda: len(children(parent.pid)) == 1)
            (answering,) = children(parent.pid)
            os.kill(stub.pid if victim_is_the_stub else answering, signal.SIGKILL)
            assert stub.wait(timeout=20) == (-signal.SIGKILL if victim_is_the_stub else 1)
            wait_until(lambda: children(parent.pid) == [])
    assert parent.poll() is None


def test_only_the_own_account_may_knock(kit: Kit, parent: "subprocess.Popen[bytes]") -> None:
    assert kit.socket.stat().st_mode & 0o777 == 0o600


def test_importing_leaves_nothing_behind_that_cannot_be_forked() -> None:
    """A thread or an initialised GPU would be missing in every child."""
    check = (
        "import importlib, threading, torch; from adamss_fl.cli import clients\n"
        "for name in clients._IMPORTED: importlib.import_module(name)\n"
        "assert threading.active_count() == 1, threading.enumerate()\n"
        "assert not torch.cuda.is_initialized()\n"
        "import sys; assert 'client' not in sys.modules  # which a bundle brings\n"
    )
    subprocess.run([sys.executable, "-c", check], check=True, env={**os.environ, KIT_VARIABLE: ""})


def test_the_parent_never_touches_a_gpu() -> None:
    """CUDA does not survive a fork: once the parent has asked for a GPU, no process that it forks can use one."""
    program = """
import importlib, torch
touched = []
for name in ("is_available", "device_count", "init", "_lazy_init", "get_device_capability", "current_device"):
    setattr(torch.cuda, name, lambda *given, name=name: touched.append(name))
from adamss_fl.cli import clients
for name in clients._IMPORTED:
    importlib.import_module(name)
print(touched)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120, check=False)
    assert done.stdout.strip() == "[]", done.stdout + done.stderr
