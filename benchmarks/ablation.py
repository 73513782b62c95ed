"""What each part of the method is worth: variants against the whole method, trained on pooled phantom hospitals.

    python benchmarks/ablation.py --out runs/ablation --seeds 0 1 2

Per seed a new phantom (new patients) and new weights; within a seed all arms have the same patients, start weights and
passes over each patient. Arms that would train the very same stage I train it once. C' is (C - 0.5) / (oracle C - 0.5).
A difference to ``full`` has a 95 % interval from the same resampled test patients for both, by seed; the pooled
one is the mean over seeds. It covers chance in the test patients and not in training: ``transfer none`` and ``stage II
alone`` train alike but for the random numbers, so the difference between these two shows how much chance in training
does.

Finished seeds and arms are kept, so an interrupted benchmark goes on where it stopped.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import arms as shared
import numpy as np

from adamss_fl.assembly import load_all_data
from adamss_fl.config import load_config, task_of
from adamss_fl.evaluation.compare import POOLED, Arm, task_of_arm
from adamss_fl.federation.files import write_json
from adamss_fl.federation.stage_one import stage_one_fingerprint
from adamss_fl.survival import Difference

FULL = "full"
_CLINICAL = "tabular.clinical=[{name: age_years, kind: continuous}, {name: hpv, kind: binary}]"
_RADIOMICS = "tabular.radiomics={masks: [tumour, nodes]}"

ARMS: Mapping[str, tuple[str, ...]] = {
    FULL: (),
    "transfer encoder": ("stages.transfer=encoder",),
    "transfer none": ("stages.transfer=none",),
    "stage II alone": ("plan.segmentation_rounds=0",),
    "gates half": ("model.gates=half",),
    "gates early": ("model.gates=early",),
    "gates late": ("model.gates=late",),
    "joint": ("plan.preset=null", "plan.blocks=[{{stages: [joint], rounds: {passes}, epochs: 1}}]"),
    "with clinical": (_CLINICAL,),
    "with radiomics": (_RADIOMICS,),
    "with clinical and radiomics": (_CLINICAL, _RADIOMICS),
}
"""The keys that each arm changes; ``full`` has learnt gates and images alone."""


def main() -> None:
    """Run the benchmark and print its table."""
    parser = shared.options_of(__doc__, "ablation", patients=200)
    parser.add_argument("--arms", nargs="+", choices=tuple(ARMS), default=list(ARMS), help="arms beside full")
    options = parser.parse_args()
    names = [name for name in ARMS if name == FULL or name in options.arms]
    origin = origins(options, names)
    for seed in options.seeds:  # a seed whole before the next one, and stages I before those that go on from them
        own = argparse.Namespace(**{**vars(options), "seeds": [seed]})
        for goes_on in (False, True):
            shared.train_all(own, [name for name in names if (origin[name] != name) == goes_on], run_job)
    done = [name for name in names if all(shared.is_done(options, seed, name) for seed in options.seeds)]
    results = {seed: shared.figures_of(options, seed, done) for seed in options.seeds}
    gaps = {name: shared.differences(options, name, FULL) for name in done if name != FULL}
    write_json(
        options.out / "results.json",
        {
            "seeds": {str(seed): found for seed, found in results.items()},
            "differences": {name: [vars(gap) for gap in found] for name, found in gaps.items()},
        },
    )
    print(table(results, gaps))


def overrides_of(options: Any, name: str) -> list[str]:
    """The keys that an arm changes; ``joint`` passes as often over each patient as both stages together."""
    plan = load_config(options.config).plan
    passes = (plan.segmentation_rounds + plan.survival_rounds) * (plan.epochs or 1)
    return [change.format(passes=passes) if "{passes}" in change else change for change in ARMS[name]]


def origins(options: Any, names: Sequence[str]) -> dict[str, str]:
    """For every arm the first one that trains the very same stage I; itself where none before it does."""
    first: dict[str | None, str] = {}
    found = {}
    for name in names:
        config = shared.configuration(options, options.seeds[0], overrides_of(options, name))
        trained = stage_one_fingerprint(*task_of_arm(arm_of(options, options.seeds[0], name), task_of(config)))
        found[name] = name if trained is None else first.setdefault(trained, name)
    return found


def arm_of(options: Any, seed: int, name: str) -> Arm:
    """The arm behind a name of :data:`ARMS`: all hospitals pooled."""
    return Arm(name, "pooled", shared.arm_folder(options, seed, name), (POOLED,))


def run_job(job: shared.Job) -> str:
    """Train and predict one arm of one seed, unless it is done; returns a line for the log."""
    options, seed, name = job
    if shared.is_done(options, seed, name):
        return f"seed {seed}: {name}: kept"
    config = shared.configuration(options, seed, overrides_of(options, name))
    data = load_all_data(config, shared.seed_folder(options, seed))
    origin = origins(options, list(ARMS))[name]
    stage_one: Path | None = None if origin == name else shared.arm_folder(options, seed, origin)
    arm = arm_of(options, seed, name)
    return shared.train_and_predict(options, seed, name, arm, task_of(config), data, stage_one)


def table(results: Mapping[int, Mapping[str, Any]], gaps: Mapping[str, Sequence[Difference]]) -> str:
    """A Markdown table: means over seeds, the difference to ``full`` by seed, and over all of them with its verdict."""
    seeds = list(results)
    oracles = ", ".join(f"{found['oracle_c_index']:.4f}" for found in results.values())
    counts = ", ".join(str(found["test_patients"]) for found in results.values())
    head = ["arm", "C (mean)", "C' (mean)", "DSC tumour", "DSC nodes", "CPU s"]
    head += [*(f"C - C of {FULL}, seed {seed}" for seed in seeds), "mean over seeds", "verdict"]
    lines = [
        f"Oracle C by seed: {oracles}. Test patients: {counts}. In brackets 95 % intervals. "
        "CPU s of stage II alone where stage I is another arm's.",
        "",
    ]
    lines += [f"| {' | '.join(head)} |", "|---" * len(head) + "|"]
    for name in results[seeds[0]]["arms"]:
        rows = [found["arms"][name] for found in results.values()]
        dice = [[row["dsc"][part] for row in rows if row["dsc"][part] is not None] for part in ("tumour", "nodes")]
        cells = [f"{np.mean([row['c_index'] for row in rows]):.4f}", f"{np.mean([row['c_prime'] for row in rows]):.3f}"]
        cells += [f"{np.mean(values):.3f}" if values else "-" for values in dice]
        cells.append(f"{np.mean([row['cpu_seconds'] for row in rows]):.0f}")
        found = gaps.get(name)
        cells += ["-"] * (len(seeds) + 2) if found is None else [*map(shared.shown, found), verdict(found[-1])]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def verdict(gap: Difference) -> str:
    """``noise`` where the interval holds 0, else which side is better."""
    if gap.low <= 0.0 <= gap.high:
        return "noise"
    return f"better than {FULL}" if gap.low > 0.0 else f"worse than {FULL}"


if __name__ == "__main__":
    main()
