"""A prediction as files: prediction.json, survival.svg and the two label images."""

import csv
import io
import os
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from adamss_fl import __version__
from adamss_fl.errors import InputError
from adamss_fl.federation.files import write_atomically, write_json
from adamss_fl.federation.finished_run import final_rounds
from adamss_fl.imaging.volumes import Image, simpleitk
from adamss_fl.prediction.patient import Prediction
from adamss_fl.prediction.trained_run import TrainedRun

RESEARCH_USE_ONLY = (
    "For research only. This is not a medical device; it must not be used for diagnosis or to decide on treatment."
)


def describe_model(run: Path, members: Sequence[TrainedRun]) -> dict[str, Any]:
    """Which weights speak: the run's folder, this version, and per member its facts and the SHA-256 of its weights."""
    return {
        "run": str(run),
        "adamss_fl": __version__,
        "members": [
            {
                "folder": str(member.folder),
                "id": member.state.get("run"),
                "rounds": final_rounds(member.folder)[0],
                "training_patients": member.state.get("trained_on", {}).get("patients"),
                "seed": member.task.seed,
                "sha256": member.digests(),
            }
            for member in members
        ],
    }


def write_prediction(prediction: Prediction, model: dict[str, Any], out: Path) -> dict[str, Any]:
    """Write one patient's files below ``out``; returns risk, survival_days, curve, masks and warnings.

    Raises InputError where ``out`` is a file.
    """
    from adamss_fl.evaluation.figures import survival_curve_figure

    make_folder(out / "masks")
    masks = {"pet": out / "masks" / "pet_mask.nii.gz", "ct": out / "masks" / "ct_mask.nii.gz"}
    _write_image(prediction.pet_mask, masks["pet"])
    _write_image(prediction.ct_mask, masks["ct"])
    curve = prediction.curve
    figure = survival_curve_figure(
        prediction.patient,
        (curve.days, curve.survival),
        prediction.survival_days,
        [(member.days, member.survival) for member in prediction.member_curves],
    )
    write_atomically(out / "survival.svg", figure.encode())
    said = {
        "risk": prediction.risk,
        "survival_days": prediction.survival_days,
        "curve": [list(point) for point in zip(curve.days, curve.survival, strict=True)],
        "masks": {name: str(path) for name, path in masks.items()},
        "warnings": [asdict(caution) for caution in prediction.cautions],
    }
    # Written last: where it lies, the others do.
    write_json(
        out / "prediction.json",
        {
            "patient": prediction.patient,
            **said,
            "masks": {name: str(path.relative_to(out)) for name, path in masks.items()},
            "labels": {"primary tumour": 1, "nodes": 2},
            "horizon_days": curve.horizon_days,
            "model": model,
            "research_use_only": RESEARCH_USE_ONLY,
        },
    )
    return said


def write_table(rows: Sequence[dict[str, Any]], path: Path) -> None:
    """Write ``predictions.csv``: patient, risk, survival_days, warnings; a patient refused has only the last."""
    text = io.StringIO()
    writer = csv.DictWriter(text, ["patient", "risk", "survival_days", "warnings"])
    writer.writeheader()
    writer.writerows(rows)
    write_atomically(path, text.getvalue().encode())


def make_folder(folder: Path) -> None:
    """Make a folder for results. Raises InputError where that cannot be."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError) as error:
        raise InputError(f"{folder}: a file is in the way; give another --out") from error


def _write_image(image: Image, path: Path) -> None:
    beside = path.with_name(f".{os.getpid()}.{path.name}")
    simpleitk().WriteImage(image, str(beside), useCompression=True)
    beside.replace(path)
