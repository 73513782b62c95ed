"""What a round costs beyond training, and the memory of the server app, with the published network of 74 MB.

    python benchmarks/overhead.py --out runs/overhead

First a federation of real processes on this machine's loopback: a server and three sites from kits, over TLS, one
training step a round. A round's overhead is its wall time less the longest time that a site spent between its log's
entries of the instruction and of the reply. The app's memory is read from /proc every 20 ms; idle is what it holds when
the sites have described themselves and no model has been sent. Then three and fifty sites in one process that answer
with their own models, over the same rounds.
"""

from __future__ import annotations

import argparse
import multiprocessing
import resource
import shutil
import threading
import time
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from deployed import SITES, configuration, running
from processes import Federation

from adamss_fl.config import load_config, task_of
from adamss_fl.federation.aggregation import GroupedAggregation
from adamss_fl.federation.checkpoint import Checkpoint, Checkpoints
from adamss_fl.federation.events import EventLog
from adamss_fl.federation.files import write_json
from adamss_fl.federation.local_sites import LocalSites
from adamss_fl.federation.messages import Instruction, Reply
from adamss_fl.federation.rounds import Rounds, RunIdentity
from adamss_fl.federation.run import initial_weights
from adamss_fl.federation.task import Task
from adamss_fl.model import AdaMSS, parameter_groups

MEBI = 1 << 20


def main() -> None:
    """Run the benchmark and print its tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/overhead"))
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--wire", choices=("fp32", "bf16"), default="fp32", help="on the wire between real processes")
    parser.add_argument("--sites", type=int, nargs="+", default=[3, 50], help="sites of the rounds in one process")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    half = options.rounds // 2
    plan = {"segmentation_rounds": half, "survival_rounds": options.rounds - half}
    config = configuration("overhead", options.out, {"width": 8}, 1, **plan)
    model = sum(array.nbytes for array in initial_weights(task_of(load_config(config))).values())
    settings = yaml.safe_load(config.read_text())
    wired = options.out.resolve() / f"overhead-{options.wire}.yaml"
    wired.write_text(yaml.safe_dump({**settings, "federation": {**settings["federation"], "wire": options.wire}}))
    found = {"model_bytes": model, "processes": over_processes(options, wired)}
    spawn = multiprocessing.get_context("spawn")
    for sites in options.sites:
        with spawn.Pool(1) as pool:
            found[f"in process, {sites} sites"] = pool.apply(in_process, (config, options.out, sites))
    write_json(options.out / "results.json", found)
    print(f"model: {model / 1e6:.1f} MB; {options.rounds} rounds of 3 sites in real processes over TLS on loopback")
    print("| round | overhead, s |\n|---|---|")
    for number, seconds in enumerate(found["processes"]["overhead_seconds"], 1):
        print(f"| {number} | {seconds:.2f} |")
    print("\n| server app | idle, MiB | peak, MiB | (peak - idle) / model |\n|---|---|---|---|")
    for name, row in found.items():
        if isinstance(row, dict):
            idle, peak = row["idle_bytes"], row["peak_bytes"]
            print(f"| {name} | {idle / MEBI:.0f} | {peak / MEBI:.0f} | {(peak - idle) / model:.2f} |")


def over_processes(options: argparse.Namespace, config: Path) -> dict[str, Any]:
    """Overhead of each round, and idle and peak memory of the server app, in real processes."""
    with running(options.out) as federation:
        federation.submit(config, "overhead")
        with Memory(lambda: federation.children("server", "flwr-serverapp")) as memory:
            federation.wait_until_finished("overhead", 1800)
        starts = [when(event) for event in federation.events("overhead", "round_start")]
        idle = memory.at(starts[0])
        ends = [*starts[1:], when(federation.events("overhead", "aggregate")[-1])]
        overhead = [
            end - start - max(trained(federation, site, number) for site in SITES)
            for number, (start, end) in enumerate(zip(starts, ends, strict=True), 1)
        ]
    return {"overhead_seconds": overhead, "idle_bytes": idle, "peak_bytes": memory.peak}


def when(event: Mapping[str, Any]) -> float:
    """Seconds since the epoch of an event or of an entry of an audit log."""
    return datetime.fromisoformat(event["time"]).timestamp()


def trained(federation: Federation, site: str, number: int) -> float:
    """Seconds that a site spent on the training of one round."""
    times = {
        entry["direction"]: when(entry)
        for entry in federation.audit(site)
        if (entry["kind"], entry["round"]) == ("train", number)
    }
    return times["out"] - times["in"]


class Memory:
    """Resident bytes of a process while the block runs."""

    def __init__(self, pids: Any) -> None:
        self._pids = pids
        self._seen: list[tuple[float, int]] = []
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch)

    def __enter__(self) -> Memory:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    @property
    def peak(self) -> int:
        """The most that was seen."""
        return max(size for _, size in self._seen)

    def at(self, moment: float) -> int:
        """What was seen last before ``moment``, in seconds since the epoch."""
        return [size for time_, size in self._seen if time_ <= moment][-1]

    def _watch(self) -> None:
        pid: int | None = None
        while not self._stop.wait(0.02):
            pid = pid or next(iter(self._pids()), None)
            if pid is not None and (size := resident(pid)):
                self._seen.append((time.time(), size))


def resident(pid: int | str) -> int:
    """Resident bytes of a process, 0 where it is gone."""
    try:
        pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    except (OSError, IndexError):
        return 0
    return pages * resource.getpagesize()


class Echo:
    """A site that answers with the model it was sent, changed a little."""

    def __init__(self, name: str, task: Task) -> None:
        self.name = name
        self._task = task

    def handle(self, instruction: Instruction) -> Reply:
        """A training reply."""
        changed = {
            name: array * array.dtype.type(1.001) if array.dtype.kind == "f" else array.copy()
            for name, array in (instruction.weights or {}).items()
        }
        figures = {
            "patients": 10 + len(self.name),
            "steps": 1,
            "losses": {"segmentation": 1.0},
            "gate_opening": [0.5] * 5,
        }
        head = (instruction.kind, self.name, instruction.run, instruction.round, instruction.attempt)
        return Reply(*head, figures=figures, weights=changed)


def in_process(config: Path, out: Path, sites: int) -> dict[str, Any]:
    """Two rounds over ``sites`` sites in this process: idle and peak memory, seconds of a round."""
    task = task_of(load_config(config))
    with np.errstate(all="raise"):
        folder = out / f"in-process-{sites}"
        shutil.rmtree(folder, ignore_errors=True)
        groups = parameter_groups(AdaMSS(task.model))
        rounds = Rounds(
            LocalSites([Echo(f"site-{number:03d}", task) for number in range(sites)], spool=folder / "replies"),
            task.plan,
            task.federation,
            GroupedAggregation(task.federation, groups),
            Checkpoints(folder / "checkpoints"),
            EventLog(folder / "events.jsonl"),
            RunIdentity("overhead", (0.0, 1.0)),
        )
        idle = resident("self")
        rounds.checkpoints.save(Checkpoint(0, initial_weights(task), {}, {}))
        Path("/proc/self/clear_refs").write_text("5")  # the peak is counted from here on
        started = time.perf_counter()
        rounds.run(0, stop=2)
        seconds = (time.perf_counter() - started) / 2
    lines = Path("/proc/self/status").read_text().splitlines()
    peak = next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) * 1024
    return {"idle_bytes": idle, "peak_bytes": peak, "round_seconds": seconds}


if __name__ == "__main__":
    main()
