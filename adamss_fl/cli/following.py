"""Looking on at a run of a server until it ends."""

import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from adamss_fl.cli.shell import console, following
from adamss_fl.deployment.submissions import Submissions, describe
from adamss_fl.errors import AdamssError, InputError

_POLL_SECONDS = 0.5


def follow_run(submissions: Submissions, name: str) -> dict[str, Any]:
    """Show a run's rounds and absences until it ends; return ``run``, ``state``, ``rounds`` and its figures.

    Raises InputError where the run ended by bad input, and AdamssError where somebody stopped it.
    """
    folder = submissions.folder(name)
    seen = _size(folder / "events.jsonl")
    told = ""
    try:
        with following(name) as report:
            while True:
                row = describe(submissions, [name])[0]
                report(row["state"], row["round"], row["rounds"] or 0)
                seen = _tell_events(folder / "events.jsonl", seen)
                if row["state"] == "finished":
                    break
                if row["state"] == "failed":
                    raise InputError(f"{name}: {row['message']}")
                if row["state"] == "stopped":
                    raise AdamssError(f"{name}: was stopped; `adamss-fl submit` with the same name carries it on")
                if row["state"] == "paused" and row["message"] != told:
                    told = row["message"]
                    console.print(f"paused: {told}; it is tried again by itself", soft_wrap=True, markup=False)
                time.sleep(_POLL_SECONDS)
    except KeyboardInterrupt:
        told = f"the run goes on; look on again with the same command, or end it with `adamss-fl stop {name}`"
        console.print(told, soft_wrap=True, markup=False)
        raise
    metrics = json.loads((folder / "metrics.json").read_text(encoding="utf-8"))
    keys = ("rounds", "sites", "c_index", "dsc")
    return {"run": folder, "state": "finished", **{key: metrics.get(key) for key in keys}}


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _tell_events(path: Path, offset: int) -> int:
    """Print the machines and absences noted since ``offset``; return how far the file has been read."""
    if not path.exists():
        return offset
    with path.open("rb") as file:
        file.seek(offset)
        data = file.read()
    whole = data[: data.rfind(b"\n") + 1]
    for line in whole.splitlines():
        try:
            event = json.loads(line)
        except ValueError:  # torn by a crash; the line after it is whole
            continue
        if event.get("kind") == "absence":
            console.print(absence_line(event), soft_wrap=True, markup=False)
        elif event.get("kind") == "site":
            _print_machine(event)
    return offset + len(whole)


def _print_machine(event: Mapping[str, Any]) -> None:
    from adamss_fl.federation.machines import machine_lines, machines_in

    for line in machine_lines(machines_in([event])):
        console.print(line, soft_wrap=True, markup=False)


def absence_line(event: Mapping[str, Any]) -> str:
    """What a person is told of an event ``absence``."""
    round_, site, cause = event["round"], event["site"], event["cause"]
    if cause == "statistic_not_allowed":  # the site is there; most figures a run can do without
        return f"round {round_}: the policy of {site} keeps back a figure that was asked for ({cause})"
    return f"round {round_}: {site} is absent: {cause}"
