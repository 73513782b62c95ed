"""What radiomics features from a filled cache add to stage II, in CPU time, on phantom patients of one hospital.

    python benchmarks/features.py --out runs/features

Two runs of one configuration, with radiomics features and without, are trained once; the first fills its cache. Then
everything after stage I is forgotten and each run resumed, in turn: mask prediction, features from the cache, their
selection, stage II, and the test patients. The ratio is of the CPU times of these.
"""

from __future__ import annotations

import argparse
import shutil
import time
from pathlib import Path

import numpy as np
import yaml

from adamss_fl.assembly import load_all_data, run_centralized
from adamss_fl.cohort import make_phantom
from adamss_fl.config import load_config
from adamss_fl.run_config import RunConfig

SEGMENTATION_ROUNDS = 2


def main() -> None:
    """Run the benchmark and print the ratio."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/features"))
    parser.add_argument("--patients", type=int, default=100)
    parser.add_argument("--rounds", type=int, default=10, help="passes of stage II over each training patient")
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    configs = {name: configuration(options, name) for name in ("without", "with")}
    for name, config in configs.items():
        train(config, options.out / name)
    seconds: dict[str, list[float]] = {name: [] for name in configs}
    for _ in range(options.repeats):
        for name, config in configs.items():
            forget_stage_two(options.out / name)
            seconds[name].append(train(config, options.out / name))
    means = {name: float(np.mean(values)) for name, values in seconds.items()}
    ratios = [there / absent for there, absent in zip(seconds["with"], seconds["without"], strict=True)]
    print(
        f"{options.patients} patients, {options.rounds} passes: {means['without']:.1f} s without and "
        f"{means['with']:.1f} s with radiomics from the cache; ratio {np.mean(ratios):.3f} "
        f"({min(ratios):.3f} to {max(ratios):.3f}, {options.repeats} repeats)"
    )


def configuration(options: argparse.Namespace, name: str) -> RunConfig:
    """The settings of one run, on a phantom hospital that is made where it is missing."""
    hospital = options.out.resolve() / "phantom"
    if not hospital.exists():
        make_phantom(hospital, sites=1, patients=options.patients, size=48, seed=0)
    stages = {"batch_size": 4, "learning_rate": 5e-3}
    settings = {
        "name": "What radiomics features add to stage II",
        "sites": [{"name": "hospital-1", "path": str(hospital / "hospital-1")}],
        "cache": str(options.out.resolve() / "cache"),
        "split": {"test": 0.2},
        "imaging": {"grid": [32, 32, 32], "spacing_mm": [4.0, 4.0, 4.0]},
        "augmentation": ["flip"],
        "model": {"width": 2},
        "stages": {"segmentation": stages, "survival": {**stages, "learning_rate": 1e-4}},
        "plan": {"segmentation_rounds": SEGMENTATION_ROUNDS, "survival_rounds": options.rounds},
        "runtime": {"threads": 1},
        "evaluation": {"bootstrap": 10},
    }
    if name == "with":
        settings["tabular"] = {"radiomics": {"masks": ["tumour"], "min_voxels": 1}}
    path = options.out / f"{name}.yaml"
    path.write_text(yaml.safe_dump(settings))
    return load_config(path)


def train(config: RunConfig, run: Path) -> float:
    """Train or resume a run; the CPU seconds it took, without those of loading the patients."""
    data = load_all_data(config, run)
    start = time.process_time()
    run_centralized(config, data, run)
    return time.process_time() - start


def forget_stage_two(run: Path) -> None:
    """Remove the checkpoints after stage I, and the figures, so that the run is resumed there."""
    for folder in (run / "checkpoints").glob("round-*"):
        if int(folder.name.removeprefix("round-")) > SEGMENTATION_ROUNDS:
            shutil.rmtree(folder)
    (run / "metrics.json").unlink()


if __name__ == "__main__":
    main()
