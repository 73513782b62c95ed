"""The Flower app's files, and Flower's simulation engine in a process of its own that leaves nothing behind.

The engine (``run_simulation`` on ray) runs in a child process: its console output, its environment and its home folder
are then not the user's, and whatever ends it, the end is one line and an exit code. The child lives as long as its
standard input is open, so it also goes when this process is killed, and takes its process group, all of ray, along.
"""

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

import adamss_fl
from adamss_fl.errors import AdamssError, InputError, MachineError

if TYPE_CHECKING:
    from adamss_fl.cli.forecast import Forecast
    from adamss_fl.run_config import RunConfig

OBJECT_STORE_BYTES = 256 * 1024 * 1024
"""Shared memory of ray's object store; larger loads spill to disk."""

_POLL_SECONDS = 0.2
_SECONDS_TO_END = 5.0


def app_folder() -> Path:
    """Return the folder that holds the Flower app: one inside the wheel, or the root of a checkout."""
    package = Path(adamss_fl.__file__).resolve().parent
    for folder in (package / "flower_app", package.parent):
        if (folder / "server" / "app.py").is_file() and (folder / "client" / "app.py").is_file():
            return folder
    raise AdamssError(f"{package}: the Flower app's files (server, client) are missing; install adamss-fl again")


def simulate(
    config: "RunConfig", config_path: Path, out: Path, quiet: bool = False, forecast: "Forecast | None" = None
) -> dict[str, Any]:
    """Run ``config`` on Flower's simulation engine into ``out``; return what ``metrics.json`` then holds.

    config_path : the file that ``config`` came from, for messages; ``config`` itself is what runs.
    out : the run's folder; an unfinished run in it is continued. Sites keep their state in ``out/sites/<name>``.
    quiet : no progress on stderr. forecast : takes note of the rounds done, and gives the time left.

    Raises InputError for bad input, at a site too, and AdamssError where the run or the engine fails.
    """
    from adamss_fl.config import dump_config

    out = out.resolve()
    if out.exists() and not out.is_dir():
        raise InputError(f"{out}: is a file; give --out a folder")
    _check_cohorts(config)
    out.mkdir(parents=True, exist_ok=True)
    logs = {site.name: _Tail(out / "sites" / site.name / "site.log") for site in config.sites}
    with _temporary_folder() as folder:
        (folder / "config.yaml").write_text(dump_config(config), encoding="utf-8")
        request = {"out": str(out), "nodes": len(config.sites), "backend": _backend(config, folder)}
        (folder / "request.json").write_text(json.dumps(request), encoding="utf-8")
        code = _run_child(folder, out, _environment(config, folder), quiet, forecast)
        if code != 0:
            shutil.copyfile(folder / "engine.log", out / "flower.log")
            _raise_failure(folder / "failure.json", config_path, out, logs)
    metrics: dict[str, Any] = json.loads((out / "metrics.json").read_text(encoding="utf-8"))
    return metrics


def _check_cohorts(config: "RunConfig") -> None:
    """Raise InputError where a site's tables cannot be read or split: here at once, and not half a minute later."""
    from adamss_fl.cohort import load_cohort, split_cohort

    for site in config.sites:
        split_cohort(load_cohort(Path(site.path), site.layout, site.name), config.split)


def sites_at_once(config: "RunConfig") -> int:
    """How many sites of a simulation train at once: as many as the processors hold at ``runtime.threads`` each."""
    processors = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(processors // config.runtime.threads, len(config.sites)))


def _backend(config: "RunConfig", folder: Path) -> dict[str, Any]:
    """Return ray's settings."""
    threads, at_once = config.runtime.threads, sites_at_once(config)
    return {
        "client_resources": {"num_cpus": threads, "num_gpus": 0.0},
        "init_args": {
            "num_cpus": at_once * threads,
            "object_store_memory": OBJECT_STORE_BYTES,
            "include_dashboard": False,
            "_temp_dir": str(folder / "ray"),
            "log_to_driver": False,
        },
    }


def _environment(config: "RunConfig", folder: Path) -> dict[str, str]:
    paths = [str(app_folder()), str(Path(adamss_fl.__file__).resolve().parent.parent), os.environ.get("PYTHONPATH", "")]
    return {
        **os.environ,
        "FLWR_HOME": str(folder / "flwr"),
        "FLWR_TELEMETRY_ENABLED": "0",
        "FLWR_DISABLE_UPDATE_CHECK": "1",
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0",
        "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",  # a site sees the GPU although ray was asked for none
        "OMP_NUM_THREADS": str(config.runtime.threads),
        "PYTHONPATH": os.pathsep.join(path for path in paths if path),
        "PYTHONSAFEPATH": "1",
    }


def _run_child(
    folder: Path, out: Path, environment: Mapping[str, str], quiet: bool, forecast: "Forecast | None"
) -> int:
    """Run the engine's process to its end, whatever ends this one; return its exit code.

    It works in ``out``: ray lets its workers import from the folder it is started in, and the user's may hold a
    ``client.py`` of its own.
    """
    from adamss_fl.cli.shell import following

    events, tell = _Tail(out / "events.jsonl"), _teller()
    with (folder / "engine.log").open("wb") as log, following("rounds") if not quiet else nullcontext() as report:
        child = subprocess.Popen(
            [sys.executable, "-m", "adamss_fl.cli.flower_app", str(folder)],
            stdin=subprocess.PIPE,
            stdout=log,
            stderr=subprocess.STDOUT,
            env=dict(environment),
            cwd=out,
            start_new_session=True,
        )
        try:
            while child.poll() is None:
                for event in events.events():
                    if not quiet:
                        tell(event)
                    if event.get("kind") != "round_start":
                        continue
                    note, done, rounds = ", ".join(event["stages"]), event["round"] - 1, event["rounds"]
                    if forecast is not None:
                        forecast.reach("flower", done / rounds)
                        note += f"; {forecast.note()}"
                    if report is not None:
                        report(note, done, rounds)
                time.sleep(_POLL_SECONDS)
        finally:
            _end(child)
        for event in () if quiet else events.events():
            tell(event)
    if forecast is not None:
        forecast.reach("flower", 1.0)
    return child.returncode


def _teller() -> Callable[[Mapping[str, Any]], None]:
    """Called with each event of a run: prints absences, and once each site whose batches could not be balanced."""
    from adamss_fl.cli.following import absence_line
    from adamss_fl.cli.shell import console
    from adamss_fl.federation.uniform_batches import uniform_lines

    seen: list[Mapping[str, Any]] = []
    told: set[str] = set()

    def tell(event: Mapping[str, Any]) -> None:
        if event.get("kind") == "absence":
            console.print(absence_line(event), soft_wrap=True, markup=False)
        seen.append(event)
        for line in uniform_lines(seen) if event.get("kind") == "train" else ():
            if line not in told:
                console.print(f"round {event['round']}: {line}", soft_wrap=True, markup=False)
                told.add(line)

    return tell


def _end(child: "subprocess.Popen[bytes]") -> None:
    """End the child with its process group, which holds all of ray, and wait until it is gone."""
    if child.stdin is not None:
        child.stdin.close()
    limit = time.monotonic() + _SECONDS_TO_END
    while time.monotonic() < limit:
        try:
            os.killpg(child.pid, signal.SIGKILL)  # also after an orderly end, which ray's agents outlive
        except (ProcessLookupError, PermissionError):
            break
        child.poll()
        time.sleep(_POLL_SECONDS / 4)
    child.wait()


def _raise_failure(record: Path, config_path: Path, out: Path, logs: Mapping[str, "_Tail"]) -> None:
    """Raise what ended the engine's process as one line."""
    for name, log in logs.items():
        starts = tuple(f"{kind.__module__}.{kind.__name__}: " for kind in (InputError, MachineError))
        reasons = [line.partition(": ")[2] for line in log.lines() if line.startswith(starts)]
        if reasons:
            who = "" if reasons[-1].startswith(f"site {name}") else f"site {name}: "
            raise InputError(f"{config_path}: {who}{reasons[-1]}")
    if not record.exists():
        raise AdamssError(f"Flower's simulation engine broke down; its log is {out / 'flower.log'}")
    failure = json.loads(record.read_text(encoding="utf-8"))
    if failure["kind"] == "InputError":
        raise InputError(failure["message"])
    raise AdamssError(f"{failure['message']} (logs: {out / 'flower.log'}, {out / 'sites'}/*/site.log)")


@contextmanager
def _temporary_folder() -> Iterator[Path]:
    """Make a folder for one simulation; ray's sockets in it allow a path of 107 characters at most."""
    base = Path(tempfile.gettempdir())
    with tempfile.TemporaryDirectory(
        prefix="adamss-", dir=base if len(str(base)) <= 24 else "/tmp", ignore_cleanup_errors=True
    ) as folder:
        yield Path(folder)


class _Tail:
    """The lines that a file gets from now on."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._offset = path.stat().st_size if path.exists() else 0

    def lines(self) -> list[str]:
        """Return the whole lines since the last call."""
        if not self._path.exists():
            return []
        with self._path.open("rb") as file:
            file.seek(self._offset)
            data = file.read()
        whole = data[: data.rfind(b"\n") + 1]
        self._offset += len(whole)
        return whole.decode("utf-8", errors="replace").splitlines()

    def events(self) -> Iterator[dict[str, Any]]:
        """Yield the lines since the last call as JSON objects."""
        for line in self.lines():
            try:
                event = json.loads(line)
            except ValueError:
                continue
            if isinstance(event, dict):
                yield event


# --- in the engine's process ------------------------------------------------------------------------------------------


def _engine(folder: Path) -> int:
    """Run the simulation that ``folder/request.json`` asks for; leave a failure in ``folder/failure.json``."""
    threading.Thread(target=_leave_with_parent, args=(folder,), daemon=True).start()
    request = json.loads((folder / "request.json").read_text(encoding="utf-8"))
    try:
        from flwr.simulation import run_simulation

        from client.app import client_app
        from server.app import server_app

        config = str(folder / "config.yaml")
        run_simulation(
            server_app=server_app(config, request["out"]),
            client_app=client_app(config, request["out"]),
            num_supernodes=request["nodes"],
            backend_config=request["backend"],
        )
    except AdamssError as failure:
        kind = "InputError" if isinstance(failure, InputError) else "AdamssError"
        record = {"kind": kind, "message": str(failure)}
        (folder / "failure.json").write_text(json.dumps(record), encoding="utf-8")
        return 1
    return 0


def _leave_with_parent(folder: Path) -> None:
    """End this process and its group, which holds all of ray, when its standard input closes; clear ``folder`` away."""
    while os.read(0, 1):  # not sys.stdin, whose lock would hang an orderly end
        pass
    shutil.rmtree(folder, ignore_errors=True)
    os.killpg(os.getpgrp(), signal.SIGKILL)


if __name__ == "__main__":
    sys.exit(_engine(Path(sys.argv[1])))
