"""What a model says of a site's test patients, kept at the site so that later queries need no model: never sent."""

from __future__ import annotations

import csv
import io
import zipfile
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from adamss_fl.errors import InputError
from adamss_fl.federation.files import write_atomically
from adamss_fl.imaging import Sample
from adamss_fl.survival import TimeGrid

FILE_NAME = "test-outcomes.npz"


@dataclass(frozen=True, eq=False)
class Outcomes:
    """Outcome and prediction of N patients under the model of a round.

    patient (N,) text, time_days (N,), event (N,) of 0 and 1; days (N,) predicted restricted mean survival time.
    survival : (N, K) predicted probability of being event-free at each bin's upper edge; edges_days : (K + 1,).
    """

    round: int
    patient: NDArray[np.str_]
    time_days: NDArray[np.float64]
    event: NDArray[np.int64]
    days: NDArray[np.float64]
    survival: NDArray[np.float64]
    edges_days: NDArray[np.float64]

    @property
    def risk(self) -> NDArray[np.float64]:
        """(N,) minus the predicted days, so that higher means earlier."""
        return -self.days

    def keep(self, folder: Path, table: Path) -> None:
        """Save them in a run's private ``folder``, and write them as a table (CSV) for the site's own eyes."""
        self.save(folder / FILE_NAME)
        lines = io.StringIO()
        writer = csv.writer(lines)
        writer.writerow(["patient", "expected_survival_days", "time_days", "event"])
        for patient, days, time, event in zip(self.patient, self.days, self.time_days, self.event, strict=True):
            writer.writerow([str(patient), repr(float(days)), repr(float(time)), int(event)])
        write_atomically(table, lines.getvalue().encode())

    def save(self, path: Path) -> None:
        """Write an ``.npz`` (no pickle) atomically."""
        buffer = io.BytesIO()
        np.savez(buffer, **{name: getattr(self, name) for name in _FIELDS})
        write_atomically(path, buffer.getvalue())

    @classmethod
    def load(cls, path: Path) -> Outcomes:
        """Read what :meth:`save` wrote. Raises InputError where there is none, or it is torn."""
        try:
            with np.load(path, allow_pickle=False) as arrays:
                found = {name: arrays[name] for name in _FIELDS}
            return cls(**{**found, "round": int(found["round"])})
        except (OSError, EOFError, ValueError, TypeError, KeyError, zipfile.BadZipFile, zlib.error) as error:
            raise InputError(f"{path}: holds no outcomes ({type(error).__name__}); evaluate the round again") from error


def outcomes_of(
    round: int, samples: Sequence[Sample], grid: TimeGrid, survival_logits: NDArray[np.float32]
) -> Outcomes:
    """Outcomes of ``samples`` (N) and what the model of ``round`` says of them: survival_logits (N, K)."""
    logits = torch.from_numpy(survival_logits)
    return Outcomes(
        round=round,
        patient=np.array([sample.patient_id for sample in samples], dtype=np.str_),
        time_days=np.array([sample.time_days for sample in samples], dtype=np.float64),
        event=np.array([sample.event for sample in samples], dtype=np.int64),
        days=grid.restricted_mean_days(logits).numpy().astype(np.float64),
        survival=grid.survival_curve(logits).numpy().astype(np.float64),
        edges_days=np.array(grid.edges_days, dtype=np.float64),
    )


_FIELDS = ("round", "patient", "time_days", "event", "days", "survival", "edges_days")
