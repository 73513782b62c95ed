"""The folder of a finished comparison whose test patients are those of its predictions, for tests of cross-site."""

import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from adamss_fl.evaluation.compare import hash_of_names
from adamss_fl.evaluation.predictions import Predictions

SITES = ("hospital-1", "hospital-2", "hospital-3")
EDGES = np.array([0.0, 300.0, 800.0, 2000.0])


def models(patients: int = 120) -> dict[str, Predictions]:
    """Five models; the federated one makes no mistake at hospital-1 and nothing but mistakes at hospital-2."""
    rng = np.random.default_rng(0)
    hazard = rng.normal(0, 1, patients)
    death, censored = rng.exponential(1000 * np.exp(-hazard)), rng.exponential(1500, patients)
    times, site = np.minimum(death, censored).round(1), np.array(SITES)[np.arange(patients) % 3]
    found = {}
    for name in ("federated", "pooled", *(f"local:{site}" for site in SITES)):
        risk = hazard + rng.normal(0, 1.5, patients)
        if name == "federated":
            risk = np.select([site == SITES[0], site == SITES[1]], [-times, times], risk)
        found[name] = Predictions(
            patient=np.array([f"p-{number:03d}" for number in range(patients)]),
            site=site,
            time_days=times,
            event=(death <= censored).astype(np.int64),
            risk=risk,
            survival=rng.random((patients, 3)),
            edges_days=EDGES,
            overlap=rng.integers(1, 90, (patients, 2, 3)),
            has_mask=np.ones(patients, dtype=bool),
        )
    return found


def write_compared(run: Path, found: Mapping[str, Predictions], bootstrap: int = 100) -> None:
    """What ``compare`` leaves of these models, as far as ``cross-site`` reads it."""
    for name, model in found.items():
        model.save(run / "arms" / name.replace(":", "-") / "predictions.npz")
    first = found["federated"]
    comparison = {
        "seed": 0,
        "bootstrap": bootstrap,
        "test_patients_sha256": hash_of_names(zip(first.site.tolist(), first.patient.tolist(), strict=True)),
        "arms": {name: {"kind": name.partition(":")[0]} for name in found},
    }
    (run / "comparison.json").write_text(json.dumps(comparison))
