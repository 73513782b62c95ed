"""A hand-made hospital in HECKTOR's layout whose parts a test can spoil one by one."""

import csv
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk

from adamss_fl.cohort import Cohort, hecktor2022, load_cohort


class Hospital:
    """A folder of tiny volumes; ``rows`` and ``clinical`` become its tables in ``load``."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.rows: dict[str, tuple[Any, Any]] = {}
        self.clinical: dict[str, Mapping[str, Any]] = {}
        (root / "imagesTr").mkdir(parents=True)
        (root / "labelsTr").mkdir()

    def add(self, patient: str, time: Any = 100, event: Any = 1) -> None:
        rng = np.random.default_rng(len(self.rows))
        self.volume(f"imagesTr/{patient}__PT.nii.gz", rng.random((6, 6, 6), dtype=np.float32) * 5)
        self.volume(f"imagesTr/{patient}__CT.nii.gz", rng.random((6, 6, 6), dtype=np.float32) * 100)
        label = np.zeros((6, 6, 6), np.uint8)
        label[2:4, 2:4, 2:4], label[5, 5, 5] = 1, 2
        self.volume(f"labelsTr/{patient}.nii.gz", label)
        self.rows[patient] = (time, event)

    def volume(self, name: str, voxels: Any, origin: tuple[float, float, float] = (0, 0, 0)) -> None:
        image = sitk.GetImageFromArray(voxels)
        image.SetOrigin(origin)
        image.SetSpacing((2.0, 2.0, 2.0))
        sitk.WriteImage(image, str(self.root / name))

    def load(self) -> Cohort:
        with (self.root / "hecktor2022_endpoint_training.csv").open("w", newline="") as file:
            csv.writer(file).writerows(
                [("PatientID", "Relapse", "RFS"), *((p, e, t) for p, (t, e) in self.rows.items())]
            )
        if self.clinical:
            columns = sorted({key for row in self.clinical.values() for key in row})
            with (self.root / "hecktor2022_clinical_info_training.csv").open("w", newline="") as file:
                writer = csv.DictWriter(file, ["PatientID", *columns])
                writer.writeheader()
                writer.writerows({"PatientID": p, **row} for p, row in self.clinical.items())
        return load_cohort(self.root, hecktor2022())
