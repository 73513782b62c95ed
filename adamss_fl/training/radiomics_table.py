"""Radiomics features of many patients: the masks are predicted, the features computed, and all kept as one table.

A row is kept with a hash of all that it was made from, so that it is used again for the same patient and model alone.
"""

from __future__ import annotations

import hashlib
import io
import zipfile
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from adamss_fl.errors import InputError
from adamss_fl.imaging import Sample
from adamss_fl.imaging.cache import write_whole
from adamss_fl.model import AdaMSS, resolve_precision, to_weights
from adamss_fl.radiomics.features import RadiomicsExtraction
from adamss_fl.training.inference import infer
from adamss_fl.training.settings import RuntimeSettings
from adamss_fl.training.tensors import device_of

_AT_ONCE = 16
"""Patients whose predicted masks are in memory at the same time."""


@dataclass(frozen=True)
class RadiomicsTable:
    """Features of N patients.

    patients : (N,) keys ``site/patient``; names : (F,); values : (N, F) float64, NaN where a feature does not exist.
    origins : (N,) hashes of the patient's image, the model and the settings that a row was made from.
    """

    patients: tuple[str, ...]
    names: tuple[str, ...]
    values: NDArray[np.float64]
    origins: tuple[str, ...]

    def rows(self, samples: Iterable[Sample]) -> NDArray[np.float64]:
        """Features (n, F) of ``samples`` in their order. Raises KeyError for a patient that the table has not."""
        place = {patient: number for number, patient in enumerate(self.patients)}
        return self.values[[place[key_of(sample)] for sample in samples]]

    def save(self, path: Path) -> None:
        """Write an ``.npz`` (no pickle) atomically."""
        buffer = io.BytesIO()
        patients, names, origins = (np.array(texts) for texts in (self.patients, self.names, self.origins))
        np.savez(buffer, patients=patients, names=names, values=self.values, origins=origins)
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, buffer.getbuffer())

    @classmethod
    def load(cls, path: Path) -> RadiomicsTable:
        """Read what :meth:`save` wrote. Raises InputError where there is no whole table."""
        try:
            with np.load(path, allow_pickle=False) as found:
                patients, names, origins = (
                    tuple(str(text) for text in found[name]) for name in ("patients", "names", "origins")
                )
                return cls(patients, names, found["values"], origins)
        except (OSError, ValueError, EOFError, KeyError, zipfile.BadZipFile) as error:
            raise InputError(f"{path}: holds no radiomics features ({type(error).__name__})") from error


def key_of(sample: Sample) -> str:
    """How a table names the patient of ``sample``; identifiers are unique within a site only."""
    return f"{sample.site}/{sample.patient_id}"


def radiomics_table(
    model: AdaMSS,
    samples: Sequence[Sample],
    runtime: RuntimeSettings,
    extraction: RadiomicsExtraction,
    known: RadiomicsTable | None = None,
    on_patient: Callable[[int, int], None] | None = None,
) -> RadiomicsTable:
    """Predict the masks of ``samples`` with ``model`` and compute their features.

    known : a table whose rows of the same origin are used as they are, without a mask.
    on_patient : called with (patients done, patients in all). Raises InputError as the extraction does.
    """
    origins = _origins(model, samples, runtime, extraction)
    found: dict[str, NDArray[np.float64]] = {}
    if known is not None and known.names == extraction.names:
        found = dict(zip(known.origins, known.values, strict=True))
    absent = [(origin, sample) for origin, sample in zip(origins, samples, strict=True) if origin not in found]
    for start in range(0, len(absent), _AT_ONCE):
        part = absent[start : start + _AT_ONCE]
        masks = infer(model, [sample for _, sample in part], runtime, keep_masks=True).masks
        assert masks is not None
        for place, ((origin, sample), mask) in enumerate(zip(part, masks, strict=True), start + 1):
            found[origin] = extraction.of(sample.patient_id, np.asarray(sample.image), mask).values
            if on_patient is not None:
                on_patient(place, len(absent))
    values = np.stack([found[origin] for origin in origins]) if origins else np.empty((0, len(extraction.names)))
    return RadiomicsTable(tuple(key_of(sample) for sample in samples), extraction.names, values, origins)


def _origins(
    model: AdaMSS, samples: Sequence[Sample], runtime: RuntimeSettings, extraction: RadiomicsExtraction
) -> tuple[str, ...]:
    """A hash for each sample of its name and image, the model's weights, and the settings of masks and features."""
    precision = resolve_precision(runtime.precision, device_of(runtime))
    how = (extraction.settings.masks, extraction.settings.min_voxels, precision, runtime.channels_last)
    common = hashlib.blake2b(extraction.key, digest_size=20)
    common.update(repr(how).encode())
    for name, tensor in to_weights(model).items():
        common.update(name.encode())
        common.update(tensor.data)
    origins = []
    for sample in samples:
        own = common.copy()
        own.update(key_of(sample).encode())
        own.update(np.ascontiguousarray(sample.image).data)
        origins.append(own.hexdigest())
    return tuple(origins)
