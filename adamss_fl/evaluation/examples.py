"""Example patients for the report's slices, chosen by rule so that they flatter nobody."""

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from adamss_fl.evaluation.predictions import Predictions, with_tabular
from adamss_fl.federation.files import write_atomically
from adamss_fl.federation.messages import Weights
from adamss_fl.federation.task import Task
from adamss_fl.imaging import Sample
from adamss_fl.model import AdaMSS, load_weights, prepare
from adamss_fl.segmentation import dsc
from adamss_fl.training import infer
from adamss_fl.training.tensors import device_of

_PERCENTILES = (75, 50, 25)


def save_examples(
    path: Path,
    task: Task,
    segmentation_weights: Weights,
    samples: Sequence[Sample],
    found: Predictions,
    tabular: Mapping[str, Any] | None = None,
) -> None:
    """Write images and outlines of the patients at the 75th, 50th and 25th percentile of tumour DSC, without names.

    samples : the patients of ``found``, in its order. tabular : the run's encoding, as its state holds it; masks do not
    depend on what it encodes. Writes nothing where fewer than three have a tumour mask.
    """
    scores = np.asarray(dsc(found.overlap[:, 0]))
    usable = np.flatnonzero(found.has_mask & (found.overlap[:, 0, 2] > 0))
    if len(usable) < len(_PERCENTILES):
        return
    order = usable[np.argsort(scores[usable], kind="stable")]
    chosen = [int(order[round((len(order) - 1) * percentile / 100)]) for percentile in _PERCENTILES]
    torch.set_num_threads(task.runtime.threads)
    model = prepare(AdaMSS(task.network(tabular)), device_of(task.runtime), task.runtime.channels_last)
    load_weights(model, segmentation_weights)
    picked = [samples[index] for index in chosen]
    unselected = None if tabular is None else {**tabular, "selected": None}
    masks = infer(model, with_tabular(task, model, picked, unselected), task.runtime, keep_masks=True).masks
    assert masks is not None
    labels = [f"{p}th percentile of tumour DSC" for p in _PERCENTILES]
    buffer = io.BytesIO()
    np.savez_compressed(
        buffer,
        pet=np.stack([np.asarray(sample.image)[0] for sample in picked]),
        ct=np.stack([np.asarray(sample.image)[1] for sample in picked]),
        reference=np.stack([np.asarray(sample.mask) for sample in picked]).astype(np.uint8),
        predicted=masks.astype(np.uint8),
        label=np.array(labels, dtype=np.str_),
    )
    write_atomically(path, buffer.getvalue())
