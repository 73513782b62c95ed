"""Files of the phantom hospitals: NIfTI volumes, HECKTOR's two CSV files, and the truth beside the hospitals."""

import csv
import importlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from adamss_fl.cohort.phantom_anatomy import Grid
from adamss_fl.cohort.phantom_hazard import Hazard, Traits
from adamss_fl.errors import InputError

TRUTH = "truth"


@dataclass(frozen=True)
class PhantomPatient:
    """One phantom patient: the truth about it, and what its hospital knows."""

    id: str
    site: str
    traits: Traits
    log_hazard: float
    survival_days: float
    time_days: int
    event: int
    clinical: Mapping[str, str]


def write_volume(path: Path, voxels: NDArray[Any], grid: Grid) -> None:
    """Write (D, H, W) ``voxels`` as NIfTI, with the centre of ``grid`` at the scanner's origin."""
    sitk: Any = importlib.import_module("SimpleITK")  # it has no types

    image = sitk.GetImageFromArray(voxels)
    image.SetSpacing(tuple(reversed(grid.spacing_mm)))
    image.SetOrigin([-(n - 1) / 2 * step for n, step in zip(grid.shape[::-1], grid.spacing_mm[::-1], strict=True)])
    sitk.WriteImage(image, str(path), useCompression=True, compressionLevel=1)


def draw_clinical(rng: np.random.Generator, traits: Traits, site_index: int) -> dict[str, str]:
    """A row of HECKTOR's clinical file; only age and HPV bear on survival, and some values are blank."""

    def blank(value: str, probability: float) -> str:
        return "" if rng.random() < probability else value

    male = rng.random() < 0.75
    return {
        "Task 1": "1",
        "Task 2": "1",
        "CenterID": str(site_index + 1),
        "Gender": "M" if male else "F",
        "Age": f"{traits.age_years:.0f}",
        "Weight": blank(f"{np.clip(rng.normal(82 if male else 66, 13), 40, 140):.1f}", 0.03),
        "Tobacco": blank(str(int(rng.random() < 0.5)), 0.5),
        "Alcohol": blank(str(int(rng.random() < 0.4)), 0.5),
        "Performance status": blank(str(int(rng.integers(0, 3))), 0.4),
        "HPV status (0=-, 1=+)": blank(str(traits.hpv), 0.1),
        "Surgery": blank(str(int(rng.random() < 0.2)), 0.3),
        "Chemotherapy": str(int(rng.random() < 0.8)),
    }


def write_tables(folder: Path, patients: Sequence[PhantomPatient]) -> None:
    """HECKTOR 2022's clinical and endpoint CSV files of one hospital."""
    clinical = [{"PatientID": p.id, **p.clinical} for p in patients]
    endpoint = [{"PatientID": p.id, "Relapse": p.event, "RFS": p.time_days} for p in patients]
    _write_csv(folder / "hecktor2022_clinical_info_training.csv", clinical)
    _write_csv(folder / "hecktor2022_endpoint_training.csv", endpoint)


def write_truth(folder: Path, patients: Sequence[PhantomPatient], hazard: Hazard, made_with: Mapping[str, Any]) -> None:
    """``patients.csv`` with every patient's true traits and log hazard, and ``hazard.json`` with the coefficients."""
    folder.mkdir()
    rows: list[dict[str, Any]] = []
    for p in patients:
        t = p.traits
        rows.append(
            {
                "PatientID": p.id,
                "site": p.site,
                "log_hazard": repr(p.log_hazard),
                "volume_ml": f"{t.volume_ml:.4f}",
                "heterogeneity": f"{t.heterogeneity:.4f}",
                "peak_suv": f"{t.peak_suv:.4f}",
                "nodes": t.nodes,
                "age_years": f"{t.age_years:.0f}",
                "hpv": t.hpv,
                "survival_days": f"{p.survival_days:.2f}",
                "time_days": p.time_days,
                "event": p.event,
                **{f"term_{name}": f"{value:.6f}" for name, value in hazard.terms(t).items()},
            }
        )
    _write_csv(folder / "patients.csv", rows)
    record = {"made_with": dict(made_with), "hazard": asdict(hazard)}
    (folder / "hazard.json").write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")


def read_truth(out: Path) -> dict[str, float]:
    """True log hazard by patient identifier of the phantom in ``out``.

    Raises ``InputError`` where ``out`` is not a phantom's folder.
    """
    path = Path(out) / TRUTH / "patients.csv"
    if not path.is_file():
        raise InputError(f"{path}: not found, so true hazards are unknown; make a phantom with `adamss-fl phantom`")
    with path.open(newline="", encoding="utf-8") as file:
        return {row["PatientID"]: float(row["log_hazard"]) for row in csv.DictReader(file)}


def read_made_with(out: Path) -> dict[str, int]:
    """The arguments that made the phantom in ``out``: sites, patients, size, seed.

    Raises ``InputError`` where ``out`` is not a phantom's folder.
    """
    path = Path(out) / TRUTH / "hazard.json"
    try:
        found = json.loads(path.read_text(encoding="utf-8"))["made_with"]
        return {name: int(found[name]) for name in ("sites", "patients", "size", "seed")}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path}: does not say how a phantom was made; make one with `adamss-fl phantom`") from error


def _write_csv(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, fieldnames=list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
