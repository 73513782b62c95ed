"""Two hundred rounds over real processes: do memory, open files, database and logs stay flat?

    python benchmarks/soak.py --out runs/soak --rounds 200

A server and three sites from kits, over TLS on this machine's loopback, with a tiny model and one step a round.
Every 20 rounds the resident memory and the open files of every lasting process are read, and the sizes of the database,
of the files of objects and of all logs.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from deployed import SITES, configuration, running
from processes import Federation, eventually

from adamss_fl.federation.files import write_json

RUN = "soak"
PROCESSES = (
    *(("server", "superlink"), ("server", "superexec")),
    *(("hospital-1", "supernode"), ("hospital-1", "superexec"), ("hospital-1", "clients")),
)


def main() -> None:
    """Run the benchmark and print its table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/soak"))
    parser.add_argument("--rounds", type=int, default=200)
    parser.add_argument("--every", type=int, default=20)
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    half = options.rounds // 2
    plan = {"segmentation_rounds": half, "survival_rounds": options.rounds - half}
    config = configuration(RUN, options.out, {"width": 1}, 1, **plan)
    rows: list[dict[str, float]] = []
    with running(options.out) as federation:
        federation.submit(config, RUN)
        for round_ in range(options.every, options.rounds + 1, options.every):
            eventually(lambda r=round_: saved(federation) >= r, 3600, federation.logs())  # type: ignore[misc]
            rows.append({"round": round_, **figures(federation)})
            print(rows[-1], flush=True)
        federation.wait_until_finished(RUN)
    write_json(options.out / "results.json", {"rows": rows})
    names = list(rows[0])
    print("| " + " | ".join(names) + " |\n" + "|---" * len(names) + "|")
    for row in rows:
        print("| " + " | ".join(f"{row[name]:.4g}" for name in names) + " |")


def saved(federation: Federation) -> int:
    """The newest round that is saved."""
    found = (federation.run(RUN) / "checkpoints").glob("round-*")
    return max((int(path.name.removeprefix("round-")) for path in found), default=0)


def figures(federation: Federation) -> dict[str, float]:
    """MiB resident and open files of each lasting process and of the server app; MiB of database and logs."""
    found: dict[str, float] = {}
    pids = {f"{who} {program}": federation.pid(who, program) for who, program in PROCESSES}
    pids["server app"] = next(iter(federation.children("server", "flwr-serverapp")), None)
    for name, pid in pids.items():
        if pid is None:
            continue
        try:
            lines = Path(f"/proc/{pid}/status").read_text().splitlines()
            files = len(list(Path(f"/proc/{pid}/fd").iterdir()))
        except OSError:  # it has just ended
            continue
        found[f"{name}, MiB"] = next(int(line.split()[1]) for line in lines if line.startswith("VmRSS")) / 1024
        found[f"{name}, files"] = files
    state = federation.server / "state"
    found["database, MiB"] = size(state.glob("superlink.db*"))
    found["objects of the server, MiB"] = size(state.glob("objects/*"))
    found["objects of a site, MiB"] = size((federation.site(SITES[0]) / "state").glob("objects/*"))
    found["logs, MiB"] = size(federation.folder.rglob("*.log*"))
    found["audit of a site, MiB"] = size((federation.site(SITES[0]) / "state").glob("audit*"))
    return found


def size(paths: Iterable[Path]) -> float:
    """MiB of files together; one that is gone meanwhile counts nothing."""
    total = 0
    for path in paths:
        with suppress(FileNotFoundError):
            total += path.stat().st_size
    return total / 2**20


if __name__ == "__main__":
    main()
