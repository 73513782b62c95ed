"""A supervisor of real processes: what dies comes back, and what ends leaves nothing."""

import itertools
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from adamss_fl.deployment import supervisor
from adamss_fl.deployment.supervisor import Program, Supervisor, birth, request_stop, status
from adamss_fl.errors import InputError

SLEEPER = [sys.executable, "-c", "import time; time.sleep(600)"]


def eventually(what: Callable[[], bool], seconds: float = 20.0) -> None:
    limit = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < limit, "it never came to be"
        time.sleep(0.02)


def pid_of(state: Path, name: str) -> int | None:
    return status(state)["processes"].get(name, {}).get("pid")


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervisor, "FIRST_PAUSE_SECONDS", 0.05)
    monkeypatch.setattr(supervisor, "_TICK_SECONDS", 0.02)


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., subprocess.Popen[bytes]]]:
    """Starts a supervisor in a process of its own, over sleeping programs of the given names."""
    running: list[subprocess.Popen[bytes]] = []

    def begin(*names: str) -> "subprocess.Popen[bytes]":
        script = (
            "import sys, pathlib\nfrom adamss_fl.deployment import supervisor as s\n"
            "s.FIRST_PAUSE_SECONDS, s._TICK_SECONDS = 0.05, 0.02\n"
            "sleep = [sys.executable, '-c', 'import time; time.sleep(600)']\n"
            "s.Supervisor([s.Program(n, sleep) for n in sys.argv[2:]], pathlib.Path(sys.argv[1])).run()\n"
        )
        child = subprocess.Popen([sys.executable, "-c", script, str(tmp_path), *names])
        running.append(child)
        eventually(lambda: all(status(tmp_path)["processes"].get(name, {}).get("running") for name in names))
        return child

    yield begin
    for child in running:
        child.kill()
        child.wait()
    supervisor.end_leftovers(tmp_path)


def test_a_killed_process_comes_back_and_is_counted(
    tmp_path: Path, start: Callable[..., subprocess.Popen[bytes]]
) -> None:
    start("a", "b")
    first, other = pid_of(tmp_path, "a"), pid_of(tmp_path, "b")
    assert first is not None
    os.kill(first, signal.SIGKILL)
    eventually(lambda: pid_of(tmp_path, "a") not in (None, first))
    found = status(tmp_path)["processes"]
    assert found["a"]["restarts"] == 1
    assert found["a"]["last_exit"] == -signal.SIGKILL
    assert (found["b"]["pid"], found["b"]["restarts"]) == (other, 0)


def test_a_stop_ends_every_process_and_the_record(
    tmp_path: Path, start: Callable[..., subprocess.Popen[bytes]]
) -> None:
    child = start("a", "b")
    pids = [pid_of(tmp_path, name) for name in ("a", "b")]
    threading.Thread(target=child.wait).start()  # a supervisor whose parent does not wait for it would stay a zombie
    assert request_stop(tmp_path)
    assert all(pid is not None and birth(pid) is None for pid in pids)
    assert status(tmp_path) == {"running": False, "supervisor": None, "processes": {}}
    assert not request_stop(tmp_path)


def test_processes_end_when_the_supervisor_is_killed(
    tmp_path: Path, start: Callable[..., subprocess.Popen[bytes]]
) -> None:
    child = start("a")
    pid = pid_of(tmp_path, "a")
    assert pid is not None
    child.kill()
    child.wait()
    eventually(lambda: birth(pid) is None)
    assert not status(tmp_path)["running"]
    start("a")  # and the place is free again
    assert status(tmp_path)["running"]


def test_a_log_that_grows_is_put_aside_while_its_process_goes_on(tmp_path: Path) -> None:
    talker = "import itertools, time\nfor n in itertools.count(): print(f'{n:09d}', flush=True); time.sleep(0.0005)"
    found = Supervisor([Program("talker", [sys.executable, "-c", talker])], tmp_path, log_bytes=10_000)
    log, aside = tmp_path / "logs/talker.log", tmp_path / "logs/talker.log.1"
    largest = 0

    def watch() -> bool:
        nonlocal largest
        largest = max(largest, log.stat().st_size if log.exists() else 0)
        return aside.exists() and bool(lines := log.read_text().split()) and int(lines[-1]) > 10_000

    def end_when_seen() -> None:
        try:
            eventually(watch, 60)
        finally:
            found.stop()

    watcher = threading.Thread(target=end_when_seen)
    watcher.start()
    found.run()
    watcher.join()
    assert int(log.read_text().split()[-1]) > 10_000
    assert largest < 100_000  # what was said is ten times as much
    assert aside.stat().st_size < 100_000


def test_there_is_one_supervisor_a_folder(tmp_path: Path, start: Callable[..., subprocess.Popen[bytes]]) -> None:
    start("a")
    with pytest.raises(InputError, match="already runs"):
        Supervisor([], tmp_path).run()


def test_a_program_that_keeps_failing_is_started_ever_more_seldom(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(supervisor, "LONGEST_PAUSE_SECONDS", 0.4)
    begun = tmp_path / "begun"
    failing = [sys.executable, "-c", f"open({str(begun)!r}, 'a').write('{{}}\\n'.format(__import__('time').time()))"]

    def enough() -> None:
        if begun.exists() and len(begun.read_text().split()) >= 6:
            one.stop()

    one = Supervisor([Program("failing", failing)], tmp_path / "state", enough)
    one.run()
    times = [float(line) for line in begun.read_text().split()]
    pauses = [b - a for a, b in itertools.pairwise(times)]
    assert pauses[0] < pauses[3]
    assert pauses[3] >= 0.4


def test_a_reused_process_number_is_not_taken_for_ours(tmp_path: Path) -> None:
    stranger = subprocess.Popen(SLEEPER, start_new_session=True)
    try:
        each = {"pid": stranger.pid, "born": "1", "restarts": 0, "last_exit": None}
        record = {"supervisor": stranger.pid, "born": "1", "processes": {"a": each}}
        (tmp_path / "processes.json").write_text(json.dumps(record))
        assert not status(tmp_path)["running"]
        assert not status(tmp_path)["processes"]["a"]["running"]
        assert not request_stop(tmp_path)
        assert stranger.poll() is None
    finally:
        stranger.kill()
        stranger.wait()


def test_an_unreadable_record_is_named(tmp_path: Path) -> None:
    (tmp_path / "processes.json").write_text("{")
    with pytest.raises(InputError, match=r"processes\.json: does not read"):
        status(tmp_path)
