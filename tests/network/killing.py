"""SIGKILL to any process of a federation, at a chosen moment of a round."""

import os
import signal
from collections.abc import Callable
from dataclasses import dataclass

from processes import Federation, eventually

MOMENT_SECONDS, VICTIM_SECONDS = 300, 240


@dataclass(frozen=True)
class Blow:
    """One kill: in which phase of a round, and of whose which process.

    who : ``server`` or a site; process : a supervised program of it, or part of a child's command line.
    """

    phase: str
    who: str
    process: str

    def __str__(self) -> str:
        return f"{self.phase}: {self.process} of {self.who}"


def kill(blow: Blow, federation: Federation, run: str, round: int) -> int:
    """Wait for the moment, kill, and return the process's number. Fails where the moment or the process never comes."""
    eventually(
        lambda: _moment(blow, federation, run, round),
        MOMENT_SECONDS,
        f"round {round}, {blow}: its moment never came\n{federation.logs()}",
    )
    victim: Callable[[], int | None] = lambda: _victim(blow, federation)  # noqa: E731
    pid: int = eventually(victim, VICTIM_SECONDS, f"round {round}, {blow}: nothing to kill\n{federation.logs()}")
    os.kill(pid, signal.SIGKILL)
    return pid


def _moment(blow: Blow, federation: Federation, run: str, round: int) -> bool:
    if blow.phase in ("send", "train", "aggregate"):
        return any(event["round"] == round for event in federation.events(run, "round_start"))
    if blow.phase == "save":
        return (federation.run(run) / "checkpoints" / f"round-{round:04d}" / "state.json").exists()
    answered = ("train", "out", round)
    return any((e["kind"], e["direction"], e["round"]) == answered for e in federation.audit(blow.who))


def _victim(blow: Blow, federation: Federation) -> int | None:
    if blow.process in ("superlink", "superexec", "supernode", "clients"):
        return federation.pid(blow.who, blow.process)
    return next(iter(federation.children(blow.who, blow.process)), None)
