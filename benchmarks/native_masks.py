"""What masks lose on their way from the model's grid into the scanners' own voxels, on a phantom hospital.

    python benchmarks/native_masks.py --out runs/native-masks --spacing 2

Trains on one hospital (one round of stage II: only masks count), predicts its test patients as `adamss-fl predict`
does, and gives the aggregated DSC on the model's grid, as evaluated, and in the voxels of CT and of PET. The reference
in each is the phantom's anatomy drawn in these voxels. A label drawn in CT voxels and moved into those of PET would be
uncertain by half a CT voxel; what that takes away has a row of its own. The last rows put the reference itself, as the
model's grid holds it, through the same way.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from numpy.typing import NDArray

from adamss_fl.assembly import load_all_data, run_centralized
from adamss_fl.cohort import load_cohort, make_phantom, split_cohort, true_pet_label
from adamss_fl.config import load_config
from adamss_fl.imaging import model_grid, prepare_arrays, read_patient
from adamss_fl.imaging.native import NODES_LABEL, TUMOUR_LABEL, label_map
from adamss_fl.imaging.volumes import resample, simpleitk
from adamss_fl.prediction import Predictor, Scan, load_run
from adamss_fl.run_config import RunConfig
from adamss_fl.segmentation import aggregated_dsc, overlap

EXTENT_MM = 128.0
LABELS = (TUMOUR_LABEL, NODES_LABEL)


def main() -> None:
    """Run the benchmark and print its table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/native-masks"))
    parser.add_argument("--patients", type=int, default=200)
    parser.add_argument("--spacing", type=float, default=4.0, help="voxels of the model's grid in mm, 2 (slow) or 4")
    parser.add_argument("--rounds", type=int, default=10, help="passes of stage I over each training patient")
    options = parser.parse_args()
    config = configuration(options)
    run = options.out / f"spacing-{options.spacing:g}"
    metrics = run_centralized(config, load_all_data(config, run), run)
    print(f"| where, grid of {options.spacing:g} mm | tumour | nodes |\n|---|---|---|")
    print(row("model grid, as evaluated", metrics["dsc"]["tumour"], metrics["dsc"]["nodes"]))
    for where, counts in native_counts(config, run).items():
        print(row(where, *(aggregated_dsc(counts[:, part]) for part in (0, 1))))


def row(where: str, tumour: float, nodes: float) -> str:
    """A line of the table."""
    return f"| {where} | {tumour:.3f} | {nodes:.3f} |"


def configuration(options: argparse.Namespace) -> RunConfig:
    """The settings of the run, on a phantom hospital that is made where it is missing."""
    phantom = options.out.resolve() / "phantom"
    if not phantom.exists():
        make_phantom(phantom, sites=1, patients=options.patients, size=96, seed=0)
    side = round(EXTENT_MM / options.spacing)
    settings = {
        "name": "Masks in native voxels",
        "sites": [{"name": "hospital-1", "path": str(phantom / "hospital-1")}],
        "split": {"test": 0.4},
        "imaging": {"grid": [side] * 3, "spacing_mm": [options.spacing] * 3},
        "augmentation": ["flip"],
        "model": {"width": 2},
        "stages": {
            "segmentation": {"batch_size": 3, "learning_rate": 5e-3},
            "survival": {"batch_size": 3, "learning_rate": 1e-4},
        },
        "plan": {"segmentation_rounds": options.rounds, "survival_rounds": 1},
        "runtime": {"threads": 2},
        "evaluation": {"bootstrap": 10},
    }
    path = options.out / f"spacing-{options.spacing:g}.yaml"
    path.write_text(yaml.safe_dump(settings))
    return load_config(path)


def native_counts(config: RunConfig, run: Path) -> dict[str, NDArray[np.int64]]:
    """(patients, masks, 3) voxel counts in CT and PET voxels, of the predictions and of the reference itself."""
    predictor, imaging = Predictor([load_run(run)]), config.imaging
    cohort = split_cohort(load_cohort(Path(config.sites[0].path)), config.split).test
    counts: dict[str, list[NDArray[np.int64]]] = {}
    for patient in cohort.patients:
        volumes = read_patient(patient, cohort.layout)
        said = predictor(Scan(patient.id, volumes.pet, volumes.ct))
        grid, carried = model_grid(volumes, imaging, patient.id), prepare_arrays(patient, cohort.layout, imaging).mask
        if carried is None or volumes.primary is None or volumes.nodes is None:
            raise RuntimeError(f"{patient.id}: a phantom patient without a mask")
        moved = [
            np.stack([resample(m, to, 0, nearest=True) for m in (volumes.primary, volumes.nodes)])
            for to in (volumes.ct, volumes.pet)
        ]
        found = {"CT": said.ct_mask, "PET": said.pet_mask}
        for name, image, truth in (
            ("CT voxels", volumes.ct, moved[0]),
            ("PET voxels", volumes.pet, parts(true_pet_label(phantom_folder(config), patient.id))),
            ("PET voxels, reference moved there from the CT's", volumes.pet, moved[1]),
        ):
            predicted = simpleitk().GetArrayFromImage(found[name.split()[0]])
            itself = label_map(carried.astype(np.float32), grid, image)
            for what, labels in ((name, predicted), (f"the reference itself in {name}", itself)):
                counts.setdefault(what, []).append(overlap(parts(labels), truth).array)
    return {what: np.stack(counts[what]) for what in sorted(counts, key=lambda name: (name.startswith("the"), name))}


def phantom_folder(config: RunConfig) -> Path:
    """The folder of the phantom whose only hospital the run has."""
    return Path(config.sites[0].path).parent


def parts(labels: NDArray[Any]) -> NDArray[np.bool_]:
    """(2, D, H, W): tumour and nodes."""
    return np.stack([labels == label for label in LABELS])


if __name__ == "__main__":
    main()
