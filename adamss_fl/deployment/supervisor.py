"""Keeps a set of processes running: restarts with back-off, one record of what runs, an end that leaves nothing.

One supervisor a state folder, held by a lock that the kernel lets go of when the process ends, however it ends. A child
that the supervisor leaves behind (because it was killed itself) gets SIGTERM from the kernel, and is looked for again
at the next start.
"""

import ctypes
import fcntl
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from adamss_fl.errors import InputError
from adamss_fl.federation.files import write_json

RECORD, LOCK = "processes.json", "supervisor.lock"
FIRST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS = 1.0, 60.0
STEADY_SECONDS = 60.0
"""A process that has run this long starts again at once and with the shortest pause."""

_TICK_SECONDS = 0.25
_SECONDS_TO_END = 10.0
_LOG_BYTES = 20 * 2**20
_PR_SET_PDEATHSIG = 1


@dataclass(frozen=True)
class Program:
    """One process to keep running.

    name : unique in a supervisor; its output goes to ``<state>/logs/<name>.log``.
    command : program and arguments; environment : what is added to this process's own.
    after_port : of this machine's loopback, that must be listened on before the process is started; 0: none.
    """

    name: str
    command: Sequence[str]
    environment: Mapping[str, str] = field(default_factory=dict)
    after_port: int = 0


@dataclass
class _Child:
    program: Program
    process: "subprocess.Popen[bytes] | None" = None
    started: float = 0.0
    restarts: int = -1
    pause: float = field(default_factory=lambda: FIRST_PAUSE_SECONDS)
    due: float = 0.0
    last_exit: int | None = None


class Supervisor:
    """Runs ``programs`` until it is told to stop by SIGTERM, SIGINT or :meth:`stop`.

    state : the folder of the record, the lock and the logs.
    on_tick : called about four times a second, for work that goes along with the processes; what it raises ends all.
    log_bytes : how large a log may grow before it is put aside; there are at most two of each.
    """

    def __init__(
        self,
        programs: Sequence[Program],
        state: Path,
        on_tick: Callable[[], None] | None = None,
        log_bytes: int = _LOG_BYTES,
    ) -> None:
        self._log_bytes = log_bytes
        self._children = [_Child(program) for program in programs]
        self._state = state
        self._on_tick = on_tick
        self._stopping = False

    def stop(self) -> None:
        """Let :meth:`run` end all processes and return."""
        self._stopping = True

    def run(self) -> None:
        """Start everything and keep it running; returns when stopped, with no process left.

        Raises InputError where another supervisor already holds the state folder.
        """
        with held(self._state):
            end_leftovers(self._state)
            before = {number: signal.signal(number, self._on_signal) for number in (signal.SIGTERM, signal.SIGINT)}
            try:
                self._record()
                while not self._stopping:
                    if self._look_after():
                        self._record()
                    self._bound_logs()
                    if self._on_tick is not None:
                        self._on_tick()
                    time.sleep(_TICK_SECONDS)
            finally:
                for child in reversed(self._children):
                    if child.process is not None:
                        end_group(child.process.pid, child.process)
                (self._state / RECORD).unlink(missing_ok=True)
                for number, handler in before.items():
                    signal.signal(number, handler)

    def _on_signal(self, number: int, frame: object) -> None:
        self._stopping = True

    def _look_after(self) -> bool:
        """Start what is due; returns whether anything changed."""
        changed = False
        now = time.monotonic()
        for child in self._children:
            if child.process is not None and (code := child.process.poll()) is not None:
                end_group(child.process.pid, None)  # whatever it has started goes with it
                child.process, child.last_exit, changed = None, code, True
                child.pause = FIRST_PAUSE_SECONDS if now - child.started >= STEADY_SECONDS else child.pause
                child.due = now + child.pause
                child.pause = min(2 * child.pause, LONGEST_PAUSE_SECONDS)
            if child.process is None and now >= child.due and _is_open(child.program.after_port):
                child.process, child.started, changed = self._start(child.program), now, True
                child.restarts += 1
        return changed

    def _start(self, program: Program) -> "subprocess.Popen[bytes]":
        log = self._log(program)
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("ab") as output:
            return subprocess.Popen(
                list(program.command),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env={**os.environ, **program.environment},
                cwd=self._state,
                start_new_session=True,
                preexec_fn=_end_with_parent,
            )

    def _log(self, program: Program) -> Path:
        return self._state / "logs" / f"{program.name}.log"

    def _bound_logs(self) -> None:
        """Put a log that has grown too large aside as ``.log.1``, in place of the one before.

        It is copied and emptied: processes append to the file they have open. What is written between the two is lost.
        """
        for child in self._children:
            log = self._log(child.program)
            if log.exists() and log.stat().st_size > self._log_bytes:
                shutil.copyfile(log, log.with_suffix(".log.1"))
                os.truncate(log, 0)

    def _record(self) -> None:
        processes = {
            child.program.name: {
                "pid": None if child.process is None else child.process.pid,
                "born": None if child.process is None else birth(child.process.pid),
                "restarts": max(child.restarts, 0),
                "last_exit": child.last_exit,
            }
            for child in self._children
        }
        content = {"supervisor": os.getpid(), "born": birth(os.getpid()), "processes": processes}
        write_json(self._state / RECORD, content)


def status(state: Path) -> dict[str, Any]:
    """What runs from a state folder: ``running``, and per process ``running``, ``pid``, ``restarts``, ``last_exit``."""
    record = _read_record(state)
    if record is None:
        return {"running": False, "supervisor": None, "processes": {}}
    processes = {
        name: {**{key: each[key] for key in ("pid", "restarts", "last_exit")}, "running": is_alive(each)}
        for name, each in record["processes"].items()
    }
    running = is_alive({"pid": record["supervisor"], "born": record["born"]})
    return {"running": running, "supervisor": record["supervisor"] if running else None, "processes": processes}


def request_stop(state: Path, patience_seconds: float = 30.0) -> bool:
    """Tell the supervisor of ``state`` to end all and wait until it is gone; False where none ran.

    Raises TimeoutError where it is not gone after ``patience_seconds``.
    """
    record = _read_record(state)
    if record is None or not is_alive({"pid": record["supervisor"], "born": record["born"]}):
        end_leftovers(state)
        return False
    os.kill(record["supervisor"], signal.SIGTERM)
    limit = time.monotonic() + patience_seconds
    while is_alive({"pid": record["supervisor"], "born": record["born"]}):
        if time.monotonic() > limit:
            raise TimeoutError(f"process {record['supervisor']} does not end; see {state / 'logs'}")
        time.sleep(_TICK_SECONDS)
    return True


@contextmanager
def held(state: Path) -> Iterator[None]:
    """Hold the one place at ``state``. Raises InputError where another process holds it."""
    state.mkdir(parents=True, exist_ok=True)
    with (state / LOCK).open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise InputError(f"{state}: already runs; `status` shows what, `stop` ends it") from None
        yield


def end_leftovers(state: Path) -> None:
    """End what a supervisor that was killed has left running; only processes that are certainly its own."""
    record = _read_record(state)
    if record is None:
        return
    for each in record["processes"].values():
        if is_alive(each):
            end_group(each["pid"], None)
    (state / RECORD).unlink(missing_ok=True)


def end_group(leader: int, process: "subprocess.Popen[bytes] | None") -> None:
    """End a process group: SIGTERM, and SIGKILL for what is left after a while.

    leader : the group's number; process : its leader where that is our child, which is then waited for.
    """
    begun = time.monotonic()
    for number, seconds in ((signal.SIGTERM, _SECONDS_TO_END), (signal.SIGKILL, 2 * _SECONDS_TO_END)):
        if not _signal_group(leader, number):
            break
        while time.monotonic() - begun < seconds and _signal_group(leader, 0):
            if process is not None:
                process.poll()
            time.sleep(_TICK_SECONDS / 5)
    if process is not None:
        process.wait()


def _signal_group(leader: int, number: int) -> bool:
    """Send a signal to a group (0: only ask); False where nothing of it is left."""
    try:
        os.killpg(leader, number)
    except (ProcessLookupError, PermissionError):
        return False
    return True


def birth(pid: int) -> str | None:
    """When a process began, in the kernel's own ticks, so that a reused number is not taken for it; None if gone."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return None
    fields = text.rpartition(")")[2].split()
    return None if fields[0] == "Z" else fields[19]


def is_alive(record: Mapping[str, Any]) -> bool:
    """Whether the process of a record (``pid``, ``born``) still runs."""
    return record["pid"] is not None and record["born"] is not None and birth(record["pid"]) == record["born"]


def _is_open(port: int) -> bool:
    """Whether something listens on a port of the loopback; 0 stands for no port to wait for."""
    if not port:
        return True
    with socket.socket() as probe:
        probe.settimeout(1.0)
        return probe.connect_ex(("127.0.0.1", port)) == 0


def _read_record(state: Path) -> dict[str, Any] | None:
    try:
        found: dict[str, Any] = json.loads((state / RECORD).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except ValueError as error:
        raise InputError(f"{state / RECORD}: does not read; remove it once nothing of it runs any more") from error
    return found


def _end_with_parent() -> None:
    """In a child before it becomes its program: SIGTERM when the supervisor dies."""
    if sys.platform.startswith("linux"):
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
