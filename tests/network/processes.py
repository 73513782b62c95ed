"""A whole federation in real processes on this machine's loopback, for tests: a server and sites, from kits."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from adamss_fl.provisioning.provision import provision
from adamss_fl.provisioning.settings import Consortium, SiteEntry


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def eventually(what: Callable[[], Any], seconds: float, why: str) -> Any:
    limit = time.monotonic() + seconds
    while not (found := what()):
        assert time.monotonic() < limit, why
        time.sleep(0.1)
    return found


class Federation:
    """Kits of a consortium with one site per cohort, and whatever of it runs; ``close`` ends everything.

    folder : for everything; cohorts : folder of patients by site. The server listens at ``host``; sites look for it at
    127.0.0.1.
    """

    def __init__(self, folder: Path, cohorts: dict[str, Path], host: str = "127.0.0.1") -> None:
        self.host = host
        self.folder, self.kits = folder, folder / "kits"
        sites = tuple(SiteEntry(name) for name in cohorts)
        self.consortium = Consortium("tests", (), ("127.0.0.1",), sites, port=free_port(), valid_days=30)
        provision(self.consortium, self.kits)
        for name, cohort in cohorts.items():
            settings = f"path: {cohort}\nstate: state\ndevice: cpu\nport: {free_port()}\n"
            (self.site(name) / "site.yaml").write_text(settings)
            (self.site(name) / "state/policy.yaml").write_text("min_patients: 1\n")
        self.environment = {**os.environ, "HOME": str(folder), "OMP_NUM_THREADS": "1"}
        self._running: dict[str, subprocess.Popen[bytes]] = {}

    @property
    def server(self) -> Path:
        return self.kits / "server"

    def site(self, name: str) -> Path:
        return self.kits / "sites" / name

    def run(self, name: str) -> Path:
        return self.server / "state/runs" / name

    def command(self, *arguments: str, seconds: float = 120) -> "subprocess.CompletedProcess[str]":
        """One command line to its end."""
        return subprocess.run(
            [sys.executable, "-P", "-m", "adamss_fl.cli.main", *arguments],
            capture_output=True,
            text=True,
            timeout=seconds,
            env=self.environment,
        )

    def start(self, *what: str) -> None:
        """Start ``server`` and sites by name."""
        for name in what:
            kit = self.server if name == "server" else self.site(name)
            role = (
                ["server", "start", str(kit), "--host", self.host] if name == "server" else ["site", "start", str(kit)]
            )
            with (self.folder / f"{name}.log").open("ab") as log:
                self._running[name] = subprocess.Popen(
                    [sys.executable, "-P", "-m", "adamss_fl.cli.main", *role],
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    env=self.environment,
                    start_new_session=True,
                )

    def connected(self) -> dict[str, str]:
        """What the server says of each site."""
        done = self.command("server", "status", str(self.server), "--json")
        assert done.returncode == 0, done.stderr
        return {site["name"]: site["status"] for site in json.loads(done.stdout)["sites"]}

    def submit(self, config: Path, name: str) -> None:
        done = self.command("submit", str(config), "--federation", str(self.server), "--name", name, "--no-follow")
        assert done.returncode == 0, done.stderr

    def outcome(self, name: str) -> dict[str, Any]:
        done = self.command("runs", "--federation", str(self.server), "--json")
        rows: Sequence[dict[str, Any]] = json.loads(done.stdout)["runs"]
        return next(row for row in rows if row["name"] == name)

    def wait_until_finished(self, name: str, seconds: float = 600) -> None:
        eventually(lambda: (self.run(name) / "outcome.json").exists() and self.is_finished(name), seconds, self.logs())

    def is_finished(self, name: str) -> bool:
        try:
            state: str = json.loads((self.run(name) / "outcome.json").read_text())["state"]
        except (FileNotFoundError, ValueError):
            return False
        return state == "finished"

    def events(self, name: str, kind: str) -> list[dict[str, Any]]:
        path = self.run(name) / "events.jsonl"
        found = []
        for line in path.read_text().splitlines() if path.exists() else []:
            try:
                event = json.loads(line)
            except ValueError:  # torn by a kill
                continue
            if event["kind"] == kind:
                found.append(event)
        return found

    def audit(self, site: str) -> list[dict[str, Any]]:
        path = self.site(site) / "state/audit.jsonl"
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []

    def pid(self, who: str, program: str) -> int | None:
        """Number of a supervised process, for example ("server", "superlink") or ("hospital-1", "supernode")."""
        kit = self.server if who == "server" else self.site(who)
        try:
            record = json.loads((kit / "state/processes.json").read_text())
        except (FileNotFoundError, ValueError):
            return None
        pid: int | None = record["processes"][program]["pid"]
        return pid

    def children(self, who: str, text: str) -> list[int]:
        """Processes of one kit whose command line holds ``text``."""
        kit = self.server if who == "server" else self.site(who)
        found = []
        for folder in Path("/proc").glob("[0-9]*"):
            try:
                line = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode()
                environment = (folder / "environ").read_bytes().decode(errors="replace")
            except OSError:
                continue
            if text in line and str(kit.resolve()) in environment:
                found.append(int(folder.name))
        return found

    def logs(self) -> str:
        """The ends of all logs, for a failure's message."""
        ends = [
            f"--- {path}\n{path.read_text(errors='replace')[-1500:]}" for path in sorted(self.folder.rglob("*.log"))
        ]
        return "\n".join(ends)

    def close(self) -> None:
        for process in self._running.values():
            if process.poll() is None:
                process.send_signal(signal.SIGTERM)
        for process in self._running.values():
            try:
                process.wait(30)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
