"""A hand-made patient whose images a test can choose voxel by voxel."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from small_images import MakeCohort, write_image

from adamss_fl.cohort import Cohort, Patient, hecktor2022


@pytest.fixture
def make_cohort(tmp_path: Path) -> MakeCohort:
    """``make_cohort(pet=..., ct=..., label=...)``: a cohort of one patient; each part is (voxels, spacing, origin)."""
    rng = np.random.default_rng(0)

    def make(name: str = "P1", **parts: Any) -> Cohort:
        voxels = rng.random((16, 16, 16), dtype=np.float32)
        given = {"pet": (voxels * 10, (4, 4, 4)), "ct": (voxels * 400 - 200, (4, 4, 4)), "label": None, **parts}
        files = {
            kind: write_image(tmp_path / f"{name}-{kind}.nii.gz", *part)
            for kind, part in given.items()
            if part is not None
        }
        patient = Patient(name, "site", files["pet"], files["ct"], files.get("label"), time_days=100.0, event=1)
        return Cohort("site", tmp_path, hecktor2022(), (patient,))

    return make
