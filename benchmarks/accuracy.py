"""What federation costs: every arm on phantom hospitals over several seeds, against the oracle.

    python benchmarks/accuracy.py --out runs/accuracy --seeds 0 1 2

Per seed a new phantom (three hospitals, new patients) and new weights. Arms: pooled, federated in both round plans,
each hospital alone, federated without stage I, and pooled with outcomes shuffled among patients. All arms have the
same hyper-parameters, start weights, schedule, passes over each patient and test patients. C' is
(C - 0.5) / (oracle C - 0.5). Finished seeds and arms are kept, so an interrupted benchmark goes on where it stopped.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from adamss_fl.assembly import load_all_data
from adamss_fl.cohort import make_phantom, read_truth
from adamss_fl.cohort.settings import CohortSettings
from adamss_fl.config import RunConfig, load_config, task_of
from adamss_fl.evaluation.compare import Arm, arms_of, oracle_figures, pool, predict_arm, train_arm
from adamss_fl.evaluation.predictions import Predictions
from adamss_fl.evaluation.scores import score
from adamss_fl.federation.files import write_json
from adamss_fl.federation.plan import RoundPlan
from adamss_fl.federation.settings import PlanSettings
from adamss_fl.federation.site import SiteData
from adamss_fl.federation.task import Task
from adamss_fl.imaging import Sample
from adamss_fl.survival import paired_difference

PLANS = ("sequential", "per-round")


def main() -> None:
    """Run the benchmark and print its table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", type=Path, default=Path(__file__).parent / "accuracy.yaml")
    parser.add_argument("--out", type=Path, default=Path("runs/accuracy"))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--patients", type=int, default=180, help="patients per hospital on average")
    parser.add_argument("--jobs", type=int, default=2, help="arms trained at once, one thread each")
    options = parser.parse_args()
    jobs = [(options, seed, arm) for seed in options.seeds for arm in ARMS]
    for seed in options.seeds:
        prepare(options, seed)
    context = multiprocessing.get_context("spawn")
    with context.Pool(options.jobs, maxtasksperchild=1) as workers:
        for finished in workers.imap_unordered(run_job, jobs):
            print(finished, flush=True)
    results = {seed: summarize(options, seed) for seed in options.seeds}
    write_json(options.out / "results.json", {str(seed): found for seed, found in results.items()})
    print(table(results))


ARMS = (
    "pooled",
    "federated sequential",
    "federated per-round",
    "local:hospital-1",
    "local:hospital-2",
    "local:hospital-3",
    "federated without stage I",
    "pooled, outcomes shuffled",
)


def prepare(options: argparse.Namespace, seed: int) -> None:
    """Make the phantom of one seed and fill the cache of prepared images."""
    folder = options.out / f"seed-{seed}"
    if not (folder / "phantom").exists():
        make_phantom(folder / "phantom", sites=3, patients=options.patients, size=48, seed=seed)
    load_all_data(configuration(options, seed), folder)


def configuration(options: argparse.Namespace, seed: int) -> RunConfig:
    """The benchmark's configuration for one seed."""
    config = load_config(options.config, [f"seed={seed}"])
    folder = (options.out / f"seed-{seed}").resolve()
    sites = tuple(
        CohortSettings(f"hospital-{number}", str(folder / "phantom" / f"hospital-{number}")) for number in (1, 2, 3)
    )
    return replace(config, sites=sites, cache=str(folder / "cache"))


def run_job(job: tuple[argparse.Namespace, int, str]) -> str:
    """Train and predict one arm of one seed, unless it is done; returns a line for the log."""
    options, seed, name = job
    folder = options.out / f"seed-{seed}"
    target = folder / "arms" / slug(name) / "predictions.npz"
    if target.exists():
        return f"seed {seed}: {name}: kept"
    config = configuration(options, seed)
    data: Mapping[str, SiteData] = load_all_data(config, folder)
    task, arm = arm_of(config, name, tuple(data), folder)
    if name.endswith("shuffled"):
        data = with_shuffled_outcomes(data, seed)
    start, cpu_start = time.perf_counter(), time.process_time()
    train_arm(arm, task, data)
    seconds, cpu_seconds = time.perf_counter() - start, time.process_time() - cpu_start
    predict_arm(arm, task, data).save(target)
    write_json(arm.folder / "seconds.json", {"seconds": seconds, "cpu_seconds": cpu_seconds})
    return f"seed {seed}: {name}: {seconds:.0f} s, {cpu_seconds:.0f} s of CPU"


def arm_of(config: RunConfig, name: str, sites: tuple[str, ...], folder: Path) -> tuple[Task, Arm]:
    """The task and arm behind a name of :data:`ARMS`."""
    task = task_of(config)
    arms = {arm.name: arm for arm in arms_of(sites, folder)}
    federated = replace(arms["federated"], folder=folder / "arms" / slug(name))
    if name in arms:
        return task, arms[name]
    if name.startswith("pooled"):
        return task, replace(arms["pooled"], folder=folder / "arms" / slug(name))
    if name == "federated without stage I":
        plan = RoundPlan.sequential(0, config.plan.survival_rounds, config.plan.epochs, config.plan.steps)
        return replace(task, plan=plan), federated
    preset = name.removeprefix("federated ")
    return replace(task, plan=RoundPlan(plan_like(config.plan, preset).resolved())), federated


def plan_like(plan: PlanSettings, preset: str) -> PlanSettings:
    """The same passes of each stage under another preset (per-round: the survival rounds, stage I in equal shares)."""
    if preset == "per-round" and plan.segmentation_rounds != plan.survival_rounds:
        raise SystemExit("plan: per-round needs as many segmentation rounds as survival rounds for an equal budget")
    return replace(plan, preset=preset)  # type: ignore[arg-type]


def with_shuffled_outcomes(data: Mapping[str, SiteData], seed: int) -> dict[str, SiteData]:
    """Outcomes (time and event together) permuted among all patients of all sites and splits."""
    everyone = [sample for value in data.values() for part in parts(value) for sample in part]
    order = np.random.default_rng([seed, 1]).permutation(len(everyone))
    outcome = {
        (sample.site, sample.patient_id): (everyone[index].time_days, everyone[index].event)
        for sample, index in zip(everyone, order, strict=True)
    }

    def shuffled(part: tuple[Sample, ...]) -> tuple[Sample, ...]:
        found = [(sample, outcome[sample.site, sample.patient_id]) for sample in part]
        return tuple(replace(sample, time_days=time_days, event=event) for sample, (time_days, event) in found)

    return {name: SiteData(*(shuffled(part) for part in parts(value))) for name, value in data.items()}


def parts(data: SiteData) -> tuple[tuple[Sample, ...], ...]:
    """Train, validation, test."""
    return data.train, data.validation, data.test


def summarize(options: argparse.Namespace, seed: int) -> dict[str, Any]:
    """Figures of one seed: per arm C with interval, C', DSC; differences to the pooled arm with intervals."""
    folder = options.out / f"seed-{seed}"
    config = configuration(options, seed)
    test = pool(load_all_data(config, folder)).test
    oracle = oracle_figures(test, read_truth(folder / "phantom"))
    found = {name: Predictions.load(folder / "arms" / slug(name) / "predictions.npz") for name in ARMS}
    arms: dict[str, Any] = {}
    for name, predictions in found.items():
        figures = score(predictions, config.evaluation.bootstrap, seed)
        figures["c_prime"] = (figures["c_index"] - 0.5) / (oracle["oracle_c_index"] - 0.5)
        figures |= json.loads((folder / "arms" / slug(name) / "seconds.json").read_text())
        arms[name] = figures
    pooled = found["pooled"]
    differences = {}
    for name in ARMS[1:3]:
        gap = paired_difference(
            pooled.time_days, pooled.event, found[name].risk, pooled.risk, config.evaluation.bootstrap, seed
        )
        differences[f"{name} - pooled"] = {"difference": gap.difference, "low": gap.low, "high": gap.high}
    return {**oracle, "test_patients": len(test), "arms": arms, "differences": differences}


def table(results: Mapping[int, Mapping[str, Any]]) -> str:
    """A Markdown table: mean over seeds, then each seed's C with its interval."""
    seeds = list(results)
    oracles = ", ".join(f"{results[seed]['oracle_c_index']:.4f}" for seed in seeds)
    counts = ", ".join(str(results[seed]["test_patients"]) for seed in seeds)
    head = " | ".join(["| arm", "C (mean)", "C' (mean)", "DSC tumour", "DSC nodes", "CPU s"])
    head += "".join(f" | C, seed {seed}" for seed in seeds)
    lines = [f"Oracle C by seed: {oracles}. Test patients: {counts}.", "", head + " |", "|---" * (6 + len(seeds)) + "|"]
    for name in ARMS:
        rows = [results[seed]["arms"][name] for seed in seeds]
        means = [float(np.mean([row[key] for row in rows])) for key in ("c_index", "c_prime")]
        dice = [[row["dsc"][part] for row in rows if row["dsc"][part] is not None] for part in ("tumour", "nodes")]
        cells = [f"{means[0]:.4f}", f"{means[1]:.3f}", *(f"{np.mean(d):.3f}" if d else "-" for d in dice)]
        cells.append(f"{np.mean([row['cpu_seconds'] for row in rows]):.0f}")
        cells += [f"{row['c_index']:.3f} ({row['ci_low']:.3f} to {row['ci_high']:.3f})" for row in rows]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    local = [np.mean([r["arms"][n]["c_index"] for n in ARMS if n.startswith("local")]) for r in results.values()]
    lines.append(f"| mean of local | {np.mean(local):.4f} |" + " |" * (4 + len(seeds)))
    lines.append("")
    for name in results[seeds[0]]["differences"]:
        gaps = [results[seed]["differences"][name] for seed in seeds]
        shown = "; ".join(f"{g['difference']:+.4f} ({g['low']:+.4f} to {g['high']:+.4f})" for g in gaps)
        lines.append(f"{name}: mean {np.mean([g['difference'] for g in gaps]):+.4f}; by seed {shown}")
    return "\n".join(lines)


def slug(name: str) -> str:
    """A folder's name for an arm."""
    return name.replace(":", "-").replace(",", "").replace(" ", "-")


if __name__ == "__main__":
    main()
