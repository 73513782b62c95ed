"""What clinical columns add to images, on phantom hospitals whose hazard holds age and HPV status.

    python benchmarks/clinical.py --seeds 24 25 26 27

Two pooled arms a seed, with the settings of benchmarks/clinical.yaml: images with both columns, and images alone, which
goes on from the first one's stage I (that sees no column). Per seed C of both and their difference, then the mean over
seeds with a 95 % interval from patients drawn anew within every seed. Settings were chosen on seeds 14 to 23 and 30 to
32. Finished arms are kept, so an interrupted benchmark goes on where it stopped.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import arms as shared
import numpy as np

from adamss_fl.assembly import load_all_data
from adamss_fl.config import task_of
from adamss_fl.evaluation.compare import POOLED, Arm
from adamss_fl.federation.files import write_json
from adamss_fl.survival import Difference

BOTH, IMAGES = "pooled", "pooled, images alone"


def main() -> None:
    """Run the benchmark and print its table."""
    options = shared.options_of(__doc__, "clinical", patients=300, seeds=(24, 25, 26, 27)).parse_args()
    for name in (BOTH, IMAGES):
        shared.train_all(options, [name], run_job)
    results = {seed: shared.figures_of(options, seed, (BOTH, IMAGES)) for seed in options.seeds}
    gaps = shared.differences(options, BOTH, IMAGES)
    write_json(
        options.out / "clinical.json",
        {"seeds": {str(seed): found for seed, found in results.items()}, "differences": [vars(gap) for gap in gaps]},
    )
    print(table(results, gaps))


def run_job(job: shared.Job) -> str:
    """Train and predict one arm of one seed, unless it is done; returns a line for the log."""
    options, seed, name = job
    if shared.is_done(options, seed, name):
        return f"seed {seed}: {name}: kept"
    config = shared.configuration(options, seed, () if name == BOTH else ("tabular.clinical=[]",))
    arm = Arm(name, "pooled", shared.arm_folder(options, seed, name), (POOLED,))
    data = load_all_data(config, shared.seed_folder(options, seed))
    stage_one = None if name == BOTH else shared.arm_folder(options, seed, BOTH)
    return shared.train_and_predict(options, seed, name, arm, task_of(config), data, stage_one)


def table(results: dict[int, dict[str, Any]], gaps: Sequence[Difference]) -> str:
    """A Markdown table: a line a seed, then the means."""
    lines = ["| seed | oracle C | C, images and columns | C, images alone | difference |", "|---|---|---|---|---|"]
    for (seed, found), gap in zip(results.items(), gaps, strict=False):
        values = [found["oracle_c_index"], *(found["arms"][name]["c_index"] for name in (BOTH, IMAGES))]
        lines.append(f"| {seed} | " + " | ".join(f"{value:.4f}" for value in values) + f" | {shared.shown(gap)} |")
    means = [float(np.mean([found["arms"][name]["c_index"] for found in results.values()])) for name in (BOTH, IMAGES)]
    lines.append(f"| mean | | {means[0]:.4f} | {means[1]:.4f} | {shared.shown(gaps[-1])} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
