"""The report of a study: one comparison under several seeds, as one short self-contained HTML file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from adamss_fl.errors import InputError
from adamss_fl.evaluation import figures
from adamss_fl.evaluation.figures.style import INK, QUIET
from adamss_fl.evaluation.report_answers import UNDEFINED, Gap, number
from adamss_fl.evaluation.report_arms import FEDERATED, LOCAL, POOLED, label_of_arm, label_of_difference, meaning_of_arm
from adamss_fl.evaluation.report_differences import UNTOLD, told_by
from adamss_fl.evaluation.report_inputs import finite, read_json
from adamss_fl.evaluation.report_render import render
from adamss_fl.evaluation.study import STUDY, over_trainings
from adamss_fl.federation.files import write_atomically

FIGURE = "differences"
_SAME = "the same patients in all seeds"
_WITHIN = "patients of each seed apart"


@dataclass(frozen=True)
class StudyArm:
    """An arm's C-index: mean and sd over seeds, and each seed's, as text."""

    label: str
    meaning: str
    mean: str
    sd: str
    by_seed: list[str]
    main: bool


@dataclass(frozen=True)
class StudyDifference:
    """A difference over all seeds; by : how its interval was drawn.

    training : with the interval from the seeds' own differences; None where there is a single seed.
    """

    label: str
    gap: Gap
    training: Gap | None
    by: str
    own: bool

    @property
    def told(self) -> str:
        """Which of the two is higher, where both intervals say the same."""
        told = told_by(self.gap)
        return told if self.training is None or told_by(self.training) == told else UNTOLD

    @property
    def over_seeds(self) -> str:
        """The interval over seeds, for a table cell."""
        return UNDEFINED if self.training is None else self.training.interval


def build_study_report(folder: Path) -> Path:
    """Write ``FOLDER/report.html`` and ``FOLDER/figures/differences.svg`` from ``study.json``; returns the page's path.

    Raises InputError where the study is not finished, or its file lacks something.
    """
    path = folder / STUDY
    if not path.is_file():
        raise InputError(f"{folder}: {STUDY} is missing; run 'compare --seeds' again, finished seeds are kept")
    try:
        page = _page(folder, read_json(path))
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{path}: lacks something ({error}); run 'compare --seeds' again") from error
    if page["figure"]:
        write_atomically(folder / "figures" / f"{FIGURE}.svg", page["figure"].encode())
    written = folder / "report.html"
    write_atomically(written, render("study.html.j2", page).encode())
    return written


def _page(folder: Path, study: Mapping[str, Any]) -> dict[str, Any]:
    seeds = [str(seed) for seed in study["seeds"]]
    found = _differences(study["differences"])
    return {
        "title": "Training together, pooled, and alone, under several seeds",
        "subtitle": f"{study.get('config_name') or folder.resolve().name} · seeds {', '.join(seeds)}",
        "seeds": seeds,
        "arms": [_arm(str(name), each) for name, each in study["arms"].items()],
        "differences": found,
        "figure": _forest(found),
        "pooled": _pooled(found, len(seeds)),
        "null": _null(study["arms"]),
        "oracle": number(finite((study.get("oracle_c_index") or {}).get("mean"))),
        "methods": _methods(study),
    }


def _arm(name: str, figures_: Mapping[str, Any]) -> StudyArm:
    found = figures_["c_index"]
    return StudyArm(
        label_of_arm(name),
        meaning_of_arm(name),
        number(finite(found["mean"])),
        number(finite(found["sd"])),
        [number(finite(value)) for value in found["by_seed"]],
        name == FEDERATED,
    )


def _differences(given: Mapping[str, Any]) -> list[StudyDifference]:
    """Those on all test patients, then those on a hospital's own; ones that are not finite are left out."""
    everyone = [(label, each, False) for label, each in given.items() if label != "own_patients"]
    own = [(label, each, True) for label, each in (given.get("own_patients") or {}).items()]
    return [made for asked in (*everyone, *own) if (made := _difference(*asked)) is not None]


def _difference(label: str, found: Mapping[str, Any], own: bool) -> StudyDifference | None:
    same = found.get("same_patients")
    gap = Gap.read({"difference": found["difference"], **same}) if isinstance(same, Mapping) else None
    by = _WITHIN if gap is None else _SAME
    gap = Gap.read(found) if gap is None else gap
    if gap is None:
        return None
    site = label.partition(f" - {LOCAL}")[2]
    label = f"At {site}: federated minus its own" if own else label_of_difference(label)
    training = Gap.read({"difference": gap.difference, **(found.get("training") or {})})
    return StudyDifference(label, gap, training, by, own)


def _forest(found: Sequence[StudyDifference]) -> str | None:
    if not found:
        return None
    rows = [
        figures.ForestRow(each.label, QUIET if each.own else INK, each.gap.difference, each.gap.low, each.gap.high)
        for each in found
    ]
    return figures.forest_figure(rows, differences=True)


def _pooled(found: Sequence[StudyDifference], seeds: int) -> str:
    wanted = label_of_difference(f"{FEDERATED} - {POOLED}")
    found_one = next((each for each in found if each.label == wanted), None)
    if found_one is None:
        return ""
    gap, training = found_one.gap, found_one.training
    text = f"Over {seeds} seeds, the federated model’s C-index minus that of pooled training is {gap} on average. "
    if gap.low <= 0 <= gap.high:
        return text + "The interval holds zero: the difference could be luck in who the test patients are."
    text += "The interval leaves out zero: luck in who the test patients are would hardly make such a difference. "
    if training is None:
        return text.rstrip()
    if training.low <= 0 <= training.high:
        return text + f"Chance in training could: the interval over seeds ({training.interval}) holds zero."
    return text + f"Nor would chance in training: the interval over seeds is {training.interval}."


def _null(arms: Mapping[str, Any]) -> str:
    null = next((each for each in arms.values() if each["kind"] == "null"), None)
    if null is None:
        return ""
    told = [each for each in null.get("holds_half") or [] if isinstance(each, bool)]
    found = null["c_index"]
    mean = number(finite(found["mean"]))
    again = over_trainings(found["by_seed"])
    over_seeds = "" if again["low"] is None else f" ({number(again['low'])} to {number(again['high'])} over seeds)"
    return (
        f"With shuffled outcomes C is {mean}{over_seeds} on average; the interval of a seed’s own test patients holds "
        f"0.5 in {sum(told)} of {len(told)} seeds."
    )


def _methods(study: Mapping[str, Any]) -> list[tuple[str, str]]:
    rows = [("Training plan", str(study["plan"]))] if study.get("plan") else []
    rows.append(("A seed changes", f"{'; '.join(map(str, study['seed_changes']))}."))
    if study.get("seed_keeps"):
        rows.append(("A seed keeps", f"{'; '.join(map(str, study['seed_keeps']))}."))
    counts = [int(each) for each in study["test_patients"]]
    same = bool(study["same_test_patients"])
    who = f"{counts[0]}, the same in every seed" if same else f"{', '.join(map(str, counts))} by seed, not all the same"
    rows.append(("Test patients", f"{who}, and in no arm’s training."))
    told = f"95 % percentile bootstrap over patients, {study['bootstrap']} resamples. "
    told += (
        "The same patients are drawn for all seeds, so that each counts once and not once a seed."
        if same
        else "Patients are drawn within each seed; a patient who is a test patient in two seeds counts twice, so that "
        "the interval may be too narrow."
    )
    rows.append(("Intervals", told))
    rows.append(
        (
            "Over seeds",
            "95 % interval by Student’s t from each seed’s difference: what another "
            f"{'training' if same else 'split and training'} would change. Which model is higher is said where both "
            "intervals leave out zero on the same side.",
        )
    )
    rows.append(
        (
            "sd",
            f"Of the C-index over seeds (n - 1); {UNDEFINED} for a single seed: how far training and "
            f"{'chance in it' if same else 'the split'} move it.",
        )
    )
    return rows
