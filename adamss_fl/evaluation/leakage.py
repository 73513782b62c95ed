"""That no arm of a comparison has seen a test patient, and that all arms are judged on the same ones."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from adamss_fl.errors import InputError
from adamss_fl.evaluation.predictions import Predictions
from adamss_fl.federation.site_data import SiteData
from adamss_fl.imaging import Sample

_STRIDE = 8
"""Every eighth slice is read of each image; only images that agree there are read whole."""


def hash_of_patients(samples: Sequence[Sample]) -> str:
    """SHA-256 over sorted site and patient identifiers: equal hashes mean the same test patients."""
    return hash_of_names((sample.site, sample.patient_id) for sample in samples)


def hash_of_names(patients: Iterable[tuple[str, str]]) -> str:
    """As :func:`hash_of_patients`, from (site, patient identifier)."""
    names = sorted(f"{site}\x1f{patient}" for site, patient in patients)
    return hashlib.sha256("\x1e".join(names).encode()).hexdigest()


def hash_of_content(samples: Sequence[Sample]) -> str:
    """SHA-256 over all that predictions are made from: identifiers, images, masks, clinical values and outcomes."""
    whole = hashlib.sha256()
    for sample in samples:
        outcome = (sample.time_days, sample.event, sample.has_mask, sorted(sample.clinical.items()))
        whole.update(repr((sample.site, sample.patient_id, *outcome)).encode())
        for array in (sample.image, sample.mask):
            whole.update(repr((array.dtype.str, array.shape)).encode())
            whole.update(array.tobytes())
    return whole.hexdigest()


def refuse_leakage(arms: Mapping[str, Mapping[str, SiteData]], test: Sequence[Sample]) -> None:
    """Check every arm's training and validation patients, by the arm's name, against the ``test`` patients.

    Raises InputError naming the first arm that has a test patient among them, at any site, or an image that equals a
    test patient's voxel for voxel, whatever its name.
    """
    ids = {sample.patient_id for sample in test}
    images = _Images(test)
    for arm, data in arms.items():
        seen = [sample for value in data.values() for part in (value.train, value.validation) for sample in part]
        leaked = sorted({sample.patient_id for sample in seen} & ids)
        if leaked:
            raise InputError(
                f"arm {arm}: {len(leaked)} test patients are also in training, the first {leaked[0]!r}; "
                "give the sites' patients distinct identifiers"
            )
        for sample in seen:
            twin = images.twin_of(sample)
            if twin is not None:
                raise InputError(
                    f"arm {arm}: test patient {twin.patient_id!r} of {twin.site} has the very images of "
                    f"{sample.patient_id!r} of {sample.site}, which the arm learns from; take one of the two out"
                )


def refuse_other_patients(arm: str, found: Predictions, expected: str) -> None:
    """Raise InputError, naming the arm, where predictions are not of the test patients with the hash ``expected``."""
    if hash_of_names(zip(found.site.tolist(), found.patient.tolist(), strict=True)) != expected:
        raise InputError(f"arm {arm}: is judged on other test patients than the comparison; train it in a new --out")


class _Images:
    """The test patients by a hash of a part of their images."""

    def __init__(self, test: Sequence[Sample]) -> None:
        self._hashes: dict[int, bytes] = {}
        self._test: dict[bytes, list[Sample]] = {}
        for sample in test:
            self._test.setdefault(self._coarse(sample.image), []).append(sample)

    def twin_of(self, sample: Sample) -> Sample | None:
        """The first test patient with the image of ``sample``."""
        candidates = self._test.get(self._coarse(sample.image), ())
        return next((other for other in candidates if np.array_equal(other.image, sample.image)), None)

    def _coarse(self, image: NDArray[np.float32]) -> bytes:
        """Hash of every eighth slice; arms share their images, so each is read once."""
        found = self._hashes.get(id(image))
        if found is None:
            slices = np.ascontiguousarray(image[:, ::_STRIDE])
            found = hashlib.sha256(repr(image.shape).encode() + slices.tobytes()).digest()
            self._hashes[id(image)] = found
        return found
