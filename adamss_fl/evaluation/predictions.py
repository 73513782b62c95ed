"""What a model says about patients, as arrays on the evaluating machine; these rows are per patient and stay there."""

from __future__ import annotations

import io
import tempfile
import zipfile
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from adamss_fl.errors import InputError
from adamss_fl.federation.files import write_atomically
from adamss_fl.federation.messages import Weights
from adamss_fl.federation.site_features import SiteFeatures
from adamss_fl.federation.task import Task
from adamss_fl.imaging import Sample
from adamss_fl.model import AdaMSS, load_weights, prepare
from adamss_fl.radiomics.encoding import TabularEncoding
from adamss_fl.survival import TimeGrid
from adamss_fl.training import infer
from adamss_fl.training.tensors import device_of

_FIELDS = ("patient", "site", "time_days", "event", "risk", "survival", "edges_days", "overlap", "has_mask")


@dataclass(frozen=True)
class Predictions:
    """One model on N patients.

    patient, site : (N,) text; time_days (N,), event (N,) the observed outcome.
    risk : (N,) minus the restricted mean survival time in days, so that higher means earlier.
    survival : (N, K) probability of being event-free at each bin's upper edge; edges_days : (K + 1,).
    overlap : (N, 2, 3) voxels in intersection, prediction, reference, for tumour and nodes; has_mask : (N,).
    """

    patient: NDArray[Any]
    site: NDArray[Any]
    time_days: NDArray[Any]
    event: NDArray[Any]
    risk: NDArray[Any]
    survival: NDArray[Any]
    edges_days: NDArray[Any]
    overlap: NDArray[Any]
    has_mask: NDArray[Any]

    def save(self, path: Path) -> None:
        """Write an ``.npz`` (no pickle) atomically."""
        buffer = io.BytesIO()
        np.savez_compressed(buffer, **{name: getattr(self, name) for name in _FIELDS})
        write_atomically(path, buffer.getvalue())

    @classmethod
    def load(cls, path: Path) -> Predictions:
        """Read what :meth:`save` wrote. Raises InputError where the file is no such thing."""
        try:
            with np.load(path, allow_pickle=False) as arrays:
                return cls(**{name: arrays[name] for name in _FIELDS})
        except (OSError, EOFError, ValueError, TypeError, KeyError, zipfile.BadZipFile, zlib.error) as error:
            raise InputError(
                f"{path}: holds no predictions ({type(error).__name__}); evaluate the run again"
            ) from error

    def subset(self, chosen: NDArray[Any]) -> Predictions:
        """The patients that a boolean or index array (N,) chooses."""
        kept = {name: getattr(self, name) if name == "edges_days" else getattr(self, name)[chosen] for name in _FIELDS}
        return Predictions(**kept)


def predict(
    task: Task,
    survival_weights: Weights,
    segmentation_weights: Weights,
    samples: Sequence[Sample],
    edges_days: Sequence[float],
    on_batch: Callable[[int, int], None] | None = None,
    *,
    tabular: Mapping[str, Any] | None = None,
    features: Path | None = None,
) -> Predictions:
    """Apply a run's two models (the final one for survival, the last trained to segment for masks) to ``samples``.

    tabular : the run's encoding, as its state holds it. features : folder of radiomics features (one that goes away
    where None), which are those of the masks that ``segmentation_weights`` predict.
    """
    torch.set_num_threads(task.runtime.threads)
    model = prepare(AdaMSS(task.network(tabular)), device_of(task.runtime), task.runtime.channels_last)
    grid = TimeGrid(tuple(edges_days))
    load_weights(model, segmentation_weights)
    samples = with_tabular(task, model, samples, tabular, features)
    seen = infer(model, samples, task.runtime, on_batch=on_batch)
    overlap = seen.overlap
    if segmentation_weights is not survival_weights:
        load_weights(model, survival_weights)
        seen = infer(model, samples, task.runtime, on_batch=on_batch)
    logits = torch.from_numpy(seen.survival_logits)
    return Predictions(
        patient=np.array([sample.patient_id for sample in samples], dtype=np.str_),
        site=np.array([sample.site for sample in samples], dtype=np.str_),
        time_days=np.array([sample.time_days for sample in samples], dtype=np.float64),
        event=np.array([sample.event for sample in samples], dtype=np.int64),
        risk=-grid.restricted_mean_days(logits).numpy(),
        survival=grid.survival_curve(logits).numpy(),
        edges_days=np.array(edges_days, dtype=np.float64),
        overlap=overlap,
        has_mask=np.array([sample.has_mask for sample in samples], dtype=bool),
    )


def with_tabular(
    task: Task,
    segmenting: AdaMSS,
    samples: Sequence[Sample],
    tabular: Mapping[str, Any] | None,
    features: Path | None = None,
) -> tuple[Sample, ...]:
    """``samples`` with the vectors of a run's encoding; radiomics features come from the masks of ``segmenting``."""
    if tabular is None:
        return tuple(samples)
    with tempfile.TemporaryDirectory() as passing:
        own = SiteFeatures(task, (Path(passing) if features is None else features) / "features")
        if TabularEncoding.from_plain(tabular).selected:
            own.extract(segmenting, samples, {**tabular, "selected": None})
        return own.attach(samples, tabular)


def join(parts: Sequence[Predictions]) -> Predictions:
    """Predictions of several groups of patients under the same time bins as one."""
    arrays: Mapping[str, Any] = {
        name: parts[0].edges_days if name == "edges_days" else np.concatenate([getattr(part, name) for part in parts])
        for name in _FIELDS
    }
    return Predictions(**arrays)
