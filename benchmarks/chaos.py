"""A run over real processes that is killed again and again, against the same run left alone.

    python benchmarks/chaos.py --out runs/chaos --cycles 4

A server and three sites from kits, over TLS on this machine's loopback, with a small model. In every cycle each kind
of process is killed once (SIGKILL), each in another phase of a round: the server app while sending, a client process
while training, a SuperNode after its reply, the SuperExec while aggregating, the SuperLink after saving, and a site's
SuperExec or, in every other cycle, the parent of its client processes. Printed are the kills, how long the run took,
and whether its weights after the rounds that are kept are, bit for bit, those of an undisturbed run in one process, as
they must be where the same sites contributed.
"""

from __future__ import annotations

import argparse
import time
from collections import Counter
from pathlib import Path

from deployed import SITES, configuration, running
from killing import Blow, kill

from adamss_fl.assembly import build_site, run_federation
from adamss_fl.config import load_config
from adamss_fl.federation.files import write_json
from adamss_fl.federation.guard.audit import verify
from adamss_fl.federation.local_sites import LocalSites

RUN = "chaos"


def main() -> None:
    """Run the benchmark and print its summary."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/chaos"))
    parser.add_argument("--cycles", type=int, default=4, help="of six kills each")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    blows = [(round_, blow) for cycle in range(options.cycles) for round_, blow in cycle_of(cycle)]
    rounds = blows[-1][0] + 1
    plan = {"preset": "per-round", "segmentation_rounds": rounds, "survival_rounds": rounds}
    config = configuration(RUN, options.out, {"width": 1}, 2, **plan)
    kills = []
    with running(options.out) as federation:
        started = time.monotonic()
        federation.submit(config, RUN)
        for round_, blow in blows:
            pid = kill(blow, federation, RUN, round_)
            kills.append({"seconds": time.monotonic() - started, "round": round_, "blow": str(blow), "pid": pid})
            print(f"{kills[-1]['seconds']:7.1f} s  round {round_:2d}  {blow}", flush=True)
        federation.wait_until_finished(RUN, 3600)
        seconds = time.monotonic() - started
        restarts = federation.outcome(RUN)["restarts"]
        whole = [not verify(federation.site(site) / "state/audit.jsonl").problems for site in SITES]
        aggregated = Counter(event["round"] for event in federation.events(RUN, "aggregate"))
        short = [e["round"] for e in federation.events(RUN, "aggregate") if tuple(e["sites"]) != SITES]
        same = equal_rounds(federation.run(RUN), undisturbed(config, options.out / f"undisturbed-{int(time.time())}"))
    found = {
        "kills": kills,
        "seconds": seconds,
        "rounds": rounds,
        "restarts": restarts,
        "rounds_recorded_again_after_a_crash": sum(count - 1 for count in aggregated.values()),
        "rounds_with_fewer_sites": short,
        "equal_bits": same,
        "audit_logs_whole": whole,
    }
    write_json(options.out / "results.json", found)
    print(
        f"{len(kills)} kills in {seconds:.0f} s over {rounds} rounds; the run was started again {restarts} times; "
        f"rounds with fewer than all sites: {short or 'none'}; the undisturbed weights bit for bit: "
        f"{same}; audit logs whole: {all(whole)}"
    )


def cycle_of(number: int) -> list[tuple[int, Blow]]:
    """Six kills over three rounds, at other sites in every cycle."""
    first = 1 + 3 * number
    one, two, three = (SITES[(number + shift) % 3] for shift in range(3))
    return [
        (first, Blow("send", "server", "flwr-serverapp")),
        (first, Blow("train", one, "knock.py")),
        (first, Blow("reply", two, "supernode")),
        (first + 1, Blow("aggregate", "server", "superexec")),
        (first + 1, Blow("save", "server", "superlink")),
        (first + 2, Blow("train", three, ("superexec", "clients")[number % 2])),
    ]


def undisturbed(config: Path, out: Path) -> Path:
    """The same run in this process."""
    settings = load_config(config)
    sites = [build_site(settings, site.name, out / "sites" / site.name) for site in settings.sites]
    run_federation(settings, LocalSites(sites), out)
    return out


def equal_rounds(first: Path, second: Path) -> dict[str, bool]:
    """Whether the models of the rounds that both runs keep are the same files."""
    found = {}
    for path in sorted((first / "checkpoints").glob("round-*/model.safetensors")):
        other = second / "checkpoints" / path.parent.name / path.name
        if other.exists():
            found[path.parent.name] = path.read_bytes() == other.read_bytes()
    return found


if __name__ == "__main__":
    main()
