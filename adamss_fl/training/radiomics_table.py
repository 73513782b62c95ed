"""Radiomics features of many patients: the masks are predicted, the features computed, and all kept as one table."""

from __future__ import annotations

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
from adamss_fl.model import AdaMSS
from adamss_fl.radiomics.features import RadiomicsExtraction
from adamss_fl.training.inference import infer
from adamss_fl.training.settings import RuntimeSettings

_AT_ONCE = 16
"""Patients whose predicted masks are in memory at the same time."""


@dataclass(frozen=True)
class RadiomicsTable:
    """Features of N patients.

    patients : (N,) keys ``site/patient``; names : (F,); values : (N, F) float64, NaN where a feature does not exist.
    """

    patients: tuple[str, ...]
    names: tuple[str, ...]
    values: NDArray[np.float64]

    def rows(self, samples: Iterable[Sample]) -> NDArray[np.float64]:
        """Features (n, F) of ``samples`` in their order. Raises KeyError for a patient that the table has not."""
        place = {patient: number for number, patient in enumerate(self.patients)}
        return self.values[[place[key_of(sample)] for sample in samples]]

    def save(self, path: Path) -> None:
        """Write an ``.npz`` (no pickle) atomically."""
        buffer = io.BytesIO()
        np.savez(buffer, patients=np.array(self.patients), names=np.array(self.names), values=self.values)
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, buffer.getbuffer())

    @classmethod
    def load(cls, path: Path) -> RadiomicsTable:
        """Read what :meth:`save` wrote. Raises InputError where there is no whole table."""
        try:
            with np.load(path, allow_pickle=False) as found:
                patients, names = (tuple(str(text) for text in found[name]) for name in ("patients", "names"))
                return cls(patients, names, found["values"])
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
    on_patient: Callable[[int, int], None] | None = None,
) -> RadiomicsTable:
    """Predict the masks of ``samples`` with ``model`` and compute their features.

    on_patient : called with (patients done, patients in all). Raises InputError as the extraction does.
    """
    rows: list[NDArray[np.float64]] = []
    for start in range(0, len(samples), _AT_ONCE):
        part = samples[start : start + _AT_ONCE]
        masks = infer(model, part, runtime, keep_masks=True).masks
        assert masks is not None
        for sample, mask in zip(part, masks, strict=True):
            rows.append(extraction.of(sample.patient_id, np.asarray(sample.image), mask).values)
            if on_patient is not None:
                on_patient(len(rows), len(samples))
    values = np.stack(rows) if rows else np.empty((0, len(extraction.names)))
    return RadiomicsTable(tuple(key_of(sample) for sample in samples), extraction.names, values)
