"""What a comparison has done already: runs taken over from equal ones, and predictions that still hold."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from adamss_fl import __version__
from adamss_fl.evaluation.arms import Arm, Part, is_personal, patients_of_part, predict_arm, task_of_arm
from adamss_fl.evaluation.leakage import hash_of_content
from adamss_fl.evaluation.predictions import Predictions
from adamss_fl.federation.files import sync_folder, write_json
from adamss_fl.federation.site import Progress
from adamss_fl.federation.site_data import SiteData
from adamss_fl.federation.task import Task, fingerprint

_FILES: Mapping[Part, str] = {"test": "predictions", "validation": "validation_predictions"}
_ORIGIN = "origin.json"


def kept_predictions(
    arm: Arm,
    task: Task,
    data: Mapping[str, SiteData],
    progress: Progress | None = None,
    part: Part = "test",
    content: str | None = None,
) -> Predictions:
    """As ``predict_arm``, from the arm's folder where they are kept and of this very model and these very patients.

    content : ``hash_of_content`` of the patients, where it is known.
    """
    known = hash_of_content(patients_of_part(arm, task, data, part)) if content is None else content
    identity = {"run": _run_of(arm.folder), "version": __version__, "patients_sha256": known}
    path, beside = arm.folder / f"{_FILES[part]}.npz", arm.folder / f"{_FILES[part]}.json"
    if path.exists() and _read(beside) == identity:
        return Predictions.load(path)
    found = predict_arm(arm, task, data, progress, part)
    beside.unlink(missing_ok=True)
    found.save(path)
    write_json(beside, identity)
    return found


def twin_of(arm: Arm, others: Sequence[Arm], task: Task) -> Arm | None:
    """The first of ``others`` that trains the very same task over the same sites' own patients, if any."""
    if not _may_be_shared(arm):
        return None
    own = fingerprint(*task_of_arm(arm, task))
    shared = (other for other in others if _may_be_shared(other))
    return next((other for other in shared if fingerprint(*task_of_arm(other, task)) == own), None)


def adopt(source: Path, target: Path, facts: Mapping[str, Any]) -> None:
    """Make ``target`` a copy of a finished run's folder, whole or not at all; one that is so already is left alone.

    facts : what is kept beside it in ``origin.json``.
    """
    origin = {**facts, "run": _run_of(source)}
    if _read(target / _ORIGIN) == origin:
        return
    beside = target.with_name(f".{target.name}.part")
    for folder in (beside, target):
        if folder.exists():
            shutil.rmtree(folder)
    shutil.copytree(source, beside)
    write_json(beside / _ORIGIN, origin)
    beside.rename(target)
    sync_folder(target.parent)


def _may_be_shared(arm: Arm) -> bool:
    """Whether the arm's task and sites say all about what it trains."""
    return arm.kind in ("federated", "strategy") and not is_personal(arm)


def _run_of(folder: Path) -> str | None:
    found = _read(folder / "metrics.json")
    return None if found is None else str(found.get("run"))


def _read(path: Path) -> dict[str, Any] | None:
    """A JSON object, or None where there is none to rely on."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) else None
