"""What federation costs: every arm on phantom hospitals over several seeds, against the oracle.

    python benchmarks/accuracy.py --out runs/accuracy --seeds 30 31 32
    python benchmarks/accuracy.py --out runs/accuracy --arms pooled "federated sequential"   # some of the arms

Per seed a new phantom (three hospitals, new patients) and new weights; the settings were chosen on seeds 0 to 16. Arms:
pooled, federated in both round plans, each hospital alone, federated without stage I, and pooled with outcomes shuffled
among patients, in several permutations. All arms have the same hyper-parameters, start weights, schedule, passes over
each patient and test patients, but for the per-round arm's rates (see :data:`PER_ROUND`). C' is (C - 0.5) / (oracle
C - 0.5). Finished seeds and arms are kept, so an interrupted benchmark goes on where it stopped.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import arms as shared
import numpy as np
from scipy import stats

from adamss_fl.assembly import load_all_data
from adamss_fl.config import task_of
from adamss_fl.evaluation.compare import Arm, arms_of
from adamss_fl.federation.files import write_json
from adamss_fl.federation.plan import RoundPlan
from adamss_fl.federation.settings import PlanSettings
from adamss_fl.federation.site_data import SiteData
from adamss_fl.federation.task import Task
from adamss_fl.imaging import Sample
from adamss_fl.run_config import RunConfig
from adamss_fl.survival import paired_difference

PERMUTATIONS = 5
"""Of the outcomes, a seed. One alone says little: the interval of its C is that of its test patients, while what a
permutation happens to give training and test in common moves C as well, by about as much."""
SHUFFLED = tuple(f"pooled, outcomes shuffled {draw}" for draw in range(1, PERMUTATIONS + 1))

PER_ROUND = (
    "stages.segmentation.drops=[0.03, 0.01]",
    "stages.survival.learning_rate=3e-5",
    "stages.survival.drops=[10.0, 2.5]",
)
"""Where both stages are trained in every round, the head can only learn once the features that it reads stand still:
stage I's rate drops earlier, and until then stage II has a tenth of its own."""


def main() -> None:
    """Run the benchmark and print its table."""
    parser = shared.options_of(__doc__, "accuracy", patients=150, seeds=(30, 31, 32))
    parser.add_argument("--arms", nargs="+", choices=ARMS, default=list(ARMS), help="pooled is always among them")
    options = parser.parse_args()
    options.arms = [name for name in ARMS if name in options.arms or name == "pooled"]
    shared.train_all(options, [name for name in options.arms if name not in SHUFFLED], run_job)
    shared.train_all(options, [name for name in options.arms if name in SHUFFLED], run_job)  # on pooled's stage I
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
    *SHUFFLED,
)


def run_job(job: shared.Job) -> str:
    """Train and predict one arm of one seed, unless it is done; returns a line for the log."""
    options, seed, name = job
    if shared.is_done(options, seed, name):
        return f"seed {seed}: {name}: kept"
    folder = shared.seed_folder(options, seed)
    config = shared.configuration(options, seed, PER_ROUND if name.endswith("per-round") else ())
    data: Mapping[str, SiteData] = load_all_data(config, folder)
    task, arm = arm_of(config, name, tuple(data), folder)
    stage_one: Path | None = None
    if name in SHUFFLED:
        data = with_shuffled_outcomes(data, seed, draw=SHUFFLED.index(name) + 1)
        stage_one = shared.arm_folder(options, seed, "pooled")  # which sees no outcome in stage I
    return shared.train_and_predict(options, seed, name, arm, task, data, stage_one)


def arm_of(config: RunConfig, name: str, sites: tuple[str, ...], folder: Path) -> tuple[Task, Arm]:
    """The task and arm behind a name of :data:`ARMS`."""
    task = task_of(config)
    arms = {arm.name: arm for arm in arms_of(sites, folder)}
    federated = replace(arms["federated"], folder=folder / "arms" / shared.slug(name))
    if name in arms:
        return task, arms[name]
    if name.startswith("pooled"):
        return task, replace(arms["pooled"], folder=folder / "arms" / shared.slug(name))
    if name == "federated without stage I":
        plan = RoundPlan.sequential(0, config.plan.survival_rounds, config.plan.epochs, config.plan.steps)
        # Norms that stage I has not trained cannot be frozen as it left them.
        stages = replace(task.stages, survival=replace(task.stages.survival, norm_statistics="batch"))
        return replace(task, plan=plan, stages=stages), federated
    preset = name.removeprefix("federated ")
    return replace(task, plan=RoundPlan(plan_like(config.plan, preset).resolved())), federated


def plan_like(plan: PlanSettings, preset: str) -> PlanSettings:
    """The same passes of each stage under another preset (per-round: the survival rounds, stage I in equal shares)."""
    if preset == "per-round" and plan.segmentation_rounds != plan.survival_rounds:
        raise SystemExit("plan: per-round needs as many segmentation rounds as survival rounds for an equal budget")
    return replace(plan, preset=preset)  # type: ignore[arg-type]


def with_shuffled_outcomes(data: Mapping[str, SiteData], seed: int, draw: int) -> dict[str, SiteData]:
    """Outcomes (time and event together) permuted among all patients of all sites and splits."""
    everyone = [sample for value in data.values() for part in parts(value) for sample in part]
    order = np.random.default_rng([seed, draw]).permutation(len(everyone))
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
    bootstrap = shared.configuration(options, seed).evaluation.bootstrap
    pooled = shared.predictions(options, seed, "pooled")
    differences = {}
    for name in (name for name in ARMS[1:3] if name in options.arms):
        risk = shared.predictions(options, seed, name).risk
        gap = paired_difference(pooled.time_days, pooled.event, risk, pooled.risk, bootstrap, seed)
        differences[f"{name} - pooled"] = {"difference": gap.difference, "low": gap.low, "high": gap.high}
    return {**shared.figures_of(options, seed, options.arms), "differences": differences}


def mean_with_interval(values: Sequence[float]) -> str:
    """The mean of independent draws with its 95 % interval by Student's t."""
    mean, error = float(np.mean(values)), float(stats.sem(values))
    low, high = stats.t.interval(0.95, len(values) - 1, mean, error)
    return f"{mean:.3f} ({low:.3f} to {high:.3f})"


def table(results: Mapping[int, Mapping[str, Any]]) -> str:
    """A Markdown table: mean over seeds, then each seed's C with its interval."""
    seeds = list(results)
    oracles = ", ".join(f"{results[seed]['oracle_c_index']:.4f}" for seed in seeds)
    counts = ", ".join(str(results[seed]["test_patients"]) for seed in seeds)
    head = " | ".join(["| arm", "C (mean)", "C' (mean)", "DSC tumour", "DSC nodes", "CPU s"])
    head += "".join(f" | C, seed {seed}" for seed in seeds)
    lines = [f"Oracle C by seed: {oracles}. Test patients: {counts}.", "", head + " |", "|---" * (6 + len(seeds)) + "|"]
    arms = list(results[seeds[0]]["arms"])
    for name in arms:
        rows = [results[seed]["arms"][name] for seed in seeds]
        means = [float(np.mean([row[key] for row in rows])) for key in ("c_index", "c_prime")]
        dice = [[row["dsc"][part] for row in rows if row["dsc"][part] is not None] for part in ("tumour", "nodes")]
        cells = [f"{means[0]:.4f}", f"{means[1]:.3f}", *(f"{np.mean(d):.3f}" if d else "-" for d in dice)]
        cells.append(f"{np.mean([row['cpu_seconds'] for row in rows]):.0f}")
        cells += [f"{row['c_index']:.3f} ({row['ci_low']:.3f} to {row['ci_high']:.3f})" for row in rows]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    local = [name for name in arms if name.startswith("local")]
    if local:
        mean = np.mean([[found["arms"][name]["c_index"] for name in local] for found in results.values()])
        lines.append(f"| mean of local | {mean:.4f} |" + " |" * (4 + len(seeds)))
    lines.append("")
    shuffled = [name for name in arms if name in SHUFFLED]
    if len(shuffled) > 1:
        draws = [[results[seed]["arms"][name]["c_index"] for name in shuffled] for seed in seeds]
        by_seed = "; ".join(f"{seed}: {mean_with_interval(found)}" for seed, found in zip(seeds, draws, strict=True))
        everything = mean_with_interval([value for found in draws for value in found])
        lines.append(f"{len(seeds) * len(shuffled)} times shuffled: mean C {everything}; by seed {by_seed}")
    for name in results[seeds[0]]["differences"]:
        gaps = [results[seed]["differences"][name] for seed in seeds]
        shown = "; ".join(f"{g['difference']:+.4f} ({g['low']:+.4f} to {g['high']:+.4f})" for g in gaps)
        lines.append(f"{name}: mean {np.mean([g['difference'] for g in gaps]):+.4f}; by seed {shown}")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
