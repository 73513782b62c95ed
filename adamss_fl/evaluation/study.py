"""A comparison repeated with other seeds: each arm's mean and spread, and the differences over all seeds.

A seed's comparison lies in ``OUT/seed-N``; the study adds nothing but what is read from there.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from adamss_fl.errors import InputError
from adamss_fl.evaluation.arms import folder_name
from adamss_fl.evaluation.differences import Contrast, Sides, contrasts, plain_difference, sides_of
from adamss_fl.evaluation.predictions import Predictions
from adamss_fl.federation.files import write_json
from adamss_fl.survival import Difference, concordance, paired_difference, pooled_difference
from adamss_fl.survival.bootstrap import resampled_c_indices

STUDY = "study.json"
SEED_CHANGES = (
    "initial weights",
    "order of patients, augmentation and dropout",
    "resamples of the intervals",
    "settings that are tried",
    "shuffling of the null run",
)
SPLIT = "split into training, validation and test patients"


def seed_folder(out: Path, seed: int) -> Path:
    """Where the comparison of one seed lies."""
    return out / f"seed-{seed}"


def is_study(out: Path) -> bool:
    """Whether a folder is that of a study, finished or not."""
    return (out / STUDY).exists() or any(out.glob("seed-*"))


def run_study(
    seeds: Sequence[int],
    out: Path,
    compare_seed: Callable[[int, Path], Mapping[str, Any]],
    *,
    bootstrap: int,
    split_by_seed: bool = False,
) -> dict[str, Any]:
    """Compare with every seed, and sum up; returns what ``study.json`` under ``out`` then holds.

    compare_seed : makes or finishes the comparison of a seed in a folder and returns it (see ``compare``).
    split_by_seed : whether it divides the patients anew for every seed, which is only told here.
    Raises InputError where a seed is given twice or is negative, and where ``out`` holds something else.
    """
    if not seeds or len(set(seeds)) != len(seeds) or min(seeds) < 0:
        raise InputError(f"--seeds: {', '.join(map(str, seeds)) or 'none'}; give whole numbers of 0 or more, each once")
    if (out / "arms").exists() or (out / "checkpoints").exists() or (out / "folds").exists():
        raise InputError(f"{out}: holds a run that is no study of several seeds; give another --out")
    comparisons = {seed: compare_seed(seed, seed_folder(out, seed)) for seed in seeds}
    study = summarize(out, comparisons, bootstrap, split_by_seed)
    write_json(out / STUDY, study)
    return study


def summarize(
    out: Path, comparisons: Mapping[int, Mapping[str, Any]], bootstrap: int, split_by_seed: bool
) -> dict[str, Any]:
    """Per arm mean and sd (n - 1; None for one seed) over seeds, and every difference over all seeds.

    A difference's ``low`` and ``high`` come from resampling patients within each seed, independently. Where every seed
    has the same test patients, ``same_patients`` has the interval from drawing the same patients for all seeds: it
    does not take a patient who is drawn in three seeds for three patients, so it is the one for what new patients would
    show. These intervals say nothing on chance in training: ``training`` has that of the seeds' own differences.
    """
    first = next(iter(comparisons.values()))
    names = tuple(first["arms"])
    found = {seed: {name: _predictions(out, seed, name) for name in names} for seed in comparisons}
    same = _same_order([each[names[0]] for each in found.values()])
    overall, own = contrasts(names)

    def over_seeds(asked: Sequence[Contrast]) -> dict[str, Any]:
        made = {c.label: _difference(c, list(found.values()), bootstrap, same) for c in asked}
        return {label: value for label, value in made.items() if value is not None}

    return {
        "config_name": first["config_name"],
        "plan": first["plan"],
        "seeds": list(comparisons),
        "seed_changes": [*SEED_CHANGES, *([SPLIT] if split_by_seed else [])],
        "seed_keeps": [] if split_by_seed else [SPLIT],
        "bootstrap": bootstrap,
        "budget": first["budget"],
        "design": first.get("design"),
        "same_test_patients": same,
        "test_patients": [comparison["test_patients"] for comparison in comparisons.values()],
        "test_patients_sha256": [comparison["test_patients_sha256"] for comparison in comparisons.values()],
        "oracle_c_index": spread([comparison["oracle_c_index"] for comparison in comparisons.values()]),
        "arms": {name: _arm(name, list(comparisons.values())) for name in names},
        "differences": {**over_seeds(overall), "own_patients": over_seeds(own)},
    }


def spread(values: Sequence[float | None]) -> dict[str, Any]:
    """``mean``, ``sd`` (n - 1) and ``by_seed``; mean and sd are None where a value is, sd for a single one too."""
    known = [value for value in values if value is not None]
    whole = len(known) == len(values)
    return {
        "mean": float(np.mean(known)) if whole and known else None,
        "sd": float(np.std(known, ddof=1)) if whole and len(known) > 1 else None,
        "by_seed": list(values),
    }


def over_trainings(differences: Sequence[float]) -> dict[str, Any]:
    """``by_seed``, ``sd`` and the 95 % interval of the mean, ``low`` and ``high``, by Student's t over the seeds.

    For what trainings under other seeds would show on the same patients; None but ``by_seed`` for a single one.
    """
    from scipy.special import stdtrit  # scipy is slow to import, and few commands need this

    told = spread(differences)
    sd, seeds = told["sd"], len(differences)
    reach = None if sd is None else float(stdtrit(seeds - 1, 0.975)) * sd / seeds**0.5
    low, high = (None, None) if reach is None else (told["mean"] - reach, told["mean"] + reach)
    return {"by_seed": list(differences), "sd": sd, "low": low, "high": high}


def _arm(name: str, comparisons: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    arms = [comparison["arms"][name] for comparison in comparisons]
    told: dict[str, Any] = {"kind": arms[0]["kind"], "c_index": spread([arm["c_index"] for arm in arms])}
    told["dsc"] = {part: spread([arm["dsc"][part] for arm in arms]) for part in arms[0]["dsc"]}
    told["comparable_pairs"] = [arm["comparable_pairs"] for arm in arms]
    for key in ("holds_half", "tuning"):
        if key in arms[0]:
            told[key] = [arm[key] for arm in arms]
    return told


def _difference(
    contrast: Contrast, found: Sequence[Mapping[str, Predictions]], bootstrap: int, same: bool
) -> dict[str, Any] | None:
    sides = [sides_of(contrast, each) for each in found]
    made: dict[str, Any] | None = plain_difference(lambda: within_seeds(sides, bootstrap))
    if made is not None:
        made["training"] = over_trainings([_point(each) for each in sides])
    if made is not None and same:
        together = plain_difference(lambda: _same_patients(sides, bootstrap))
        made["same_patients"] = None if together is None else {key: together[key] for key in ("low", "high")}
    return made


def _point(sides: Sides) -> float:
    """The difference in one seed."""
    first, *others = (concordance(sides.time_days, sides.event, risk).c_index for risk in (sides.first, *sides.others))
    return float(first - np.mean(others))


def within_seeds(seeds: Sequence[Sides], samples: int) -> Difference:
    """Mean over seeds of the difference, with a 95 % interval from resampling patients within each seed.

    ``survival.pooled_difference``, and the same for a mean over several arms. Raises NoComparablePairs where a seed has
    no comparable pair.
    """
    if all(len(sides.others) == 1 for sides in seeds):
        return pooled_difference([(s.time_days, s.event, s.first, s.others[0]) for s in seeds], samples)
    columns = []
    for number, sides in enumerate(seeds):
        values = resampled_c_indices(sides.time_days, sides.event, [sides.first, *sides.others], samples, number)
        columns.append(values[0] - values[1:].mean(axis=0))
    kept = min(column.size for column in columns)
    means: NDArray[Any] = np.mean([column[:kept] for column in columns], axis=0)
    low, high = np.percentile(means, (2.5, 97.5))
    mean = float(np.mean([_point(sides) for sides in seeds]))
    return Difference(mean, float(low), float(high), samples=kept, excluded=samples - kept)


def _same_patients(seeds: Sequence[Sides], samples: int) -> Difference:
    """As :func:`within_seeds`, the same patients being drawn for every seed."""
    first = np.stack([sides.first for sides in seeds])
    others = np.concatenate([sides.others for sides in seeds])
    return paired_difference(seeds[0].time_days, seeds[0].event, first, others, samples)


def _same_order(found: Sequence[Predictions]) -> bool:
    """Whether all predictions are of the same patients with the same outcomes, row by row."""
    first, fields = found[0], ("site", "patient", "time_days", "event")
    return all(np.array_equal(getattr(first, name), getattr(each, name)) for each in found for name in fields)


def _predictions(out: Path, seed: int, arm: str) -> Predictions:
    return Predictions.load(seed_folder(out, seed) / "arms" / folder_name(arm) / "predictions.npz")
