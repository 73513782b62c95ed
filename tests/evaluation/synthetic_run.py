"""Run folders as the commands leave them, with figures drawn from a known hazard, for the report's tests."""

import json
from pathlib import Path

import numpy as np

from adamss_fl.evaluation.compare import gaps
from adamss_fl.evaluation.predictions import Predictions
from adamss_fl.evaluation.scores import score_with_sites
from adamss_fl.survival import concordance

SITES = ("hospital-1", "hospital-2", "hospital-3")
NOISE = {"federated": 0.75, "pooled": 0.6, "local:hospital-1": 1.6, "local:hospital-2": 2.4, "local:hospital-3": 3.0}
EDGES = np.array([0, 200, 400, 700, 1000, 1500, 2600], dtype=float)


def outcomes(patients=300, seed=0):
    """Log hazard, days and events with a Weibull hazard and half of the patients censored."""
    rng = np.random.default_rng(seed)
    hazard = rng.normal(0, 1, patients)
    death = 1100 * rng.weibull(1.2, patients) * np.exp(-hazard / 1.2)
    censored = rng.uniform(200, 2600, patients)
    return hazard, np.minimum(death, censored).round(1), (death <= censored).astype(np.int64)


def predictions(noise, patients=300, seed=0):
    """Predictions whose risk is the true log hazard plus noise."""
    hazard, time_days, event = outcomes(patients, seed)
    rng = np.random.default_rng(seed + round(1000 * noise))
    seen = 0.8 * (hazard + rng.normal(0, noise, patients)) / (1 + noise**2)
    survival = np.exp(-((EDGES[1:] / 1100) ** 1.2)[None] * np.exp(seen)[:, None])
    reference = rng.integers(200, 900, (patients, 2))
    reference[: patients // 5, 1] = 0
    inter = (reference * rng.uniform(0.6, 0.95, reference.shape)).astype(np.int64)
    found = (reference * rng.uniform(0.8, 1.1, reference.shape)).astype(np.int64).clip(min=inter)
    return Predictions(
        patient=np.array([f"secret-{k:04d}" for k in range(patients)]),
        site=np.array(SITES)[np.minimum(np.arange(patients) * 3 // max(patients, 1), 2)],
        time_days=time_days,
        event=event,
        risk=-(survival * np.diff(EDGES)).sum(axis=1),
        survival=survival,
        edges_days=EDGES,
        overlap=np.stack([inter, found, reference], axis=-1),
        has_mask=np.ones(patients, dtype=bool),
    )


def events(sites, rounds=12):
    """Events of a sequential run of two stages, with an absence."""
    rng = np.random.default_rng(len(sites))
    lines = [{"kind": "run_start", "round": 0}]
    for round_ in range(1, rounds + 1):
        stage = "segmentation" if round_ <= rounds // 2 else "survival"
        lines.append({"kind": "round_start", "round": round_, "stages": [stage], "rounds": rounds})
        level = -1.6 * (1 - np.exp(-round_ / 3)) if stage == "segmentation" else 0.3 + 0.2 * np.exp(-round_ / 8)
        drift = 0.012 * round_ * np.array([-1.0, -0.3, 0.4, 0.8, 0.2])
        for place, site in enumerate(sites):
            opening = (0.5 + drift * (1 + 0.3 * place) + rng.normal(0, 0.004, 5)).tolist()
            figures = {f"loss.{stage}": level + 0.05 * place + rng.normal(0, 0.02), "gate_opening": opening}
            lines.append(
                {"kind": "train", "round": round_, "site": site, "figures": figures | {"patients": 40 + place}}
            )
        lines.append({"kind": "aggregate", "round": round_, "figures": {"gate_opening": (0.5 + drift).tolist()}})
        dsc = {
            "tumour": (0.7 + rng.normal(0, 0.02)) * (1 - np.exp(-round_ / 3)),
            "nodes": 0.6 * (1 - np.exp(-round_ / 5)),
        }
        figures = {
            "c_index": 0.5 + 0.017 * round_ + rng.normal(0, 0.01),
            "comparable_pairs": 300,
            "dsc": dsc,
            f"loss.{stage}": level + 0.1,
        }
        lines.append({"kind": "validation", "round": round_, "figures": figures})
    if len(sites) > 1:
        lines.append({"kind": "absence", "round": 3, "site": sites[1], "cause": "deadline"})
    lines.append({"kind": "run_end", "round": rounds})
    return [{"time": f"2026-11-20T10:00:{k % 60:02d}.000+00:00", **line} for k, line in enumerate(lines)]


def write_examples(path: Path, side=32):
    """Three patients with a ball for a tumour; the last has no nodes."""
    rng = np.random.default_rng(0)
    grid = np.stack(np.meshgrid(*[np.arange(side)] * 3, indexing="ij")).astype(float)

    def ball(centre, radius):
        return (((grid - np.array(centre)[:, None, None, None]) ** 2).sum(0) <= radius**2).astype(np.uint8)

    body = ball([side / 2] * 3, side * 0.44)
    pet, ct, reference, predicted = [], [], [], []
    for k in range(3):
        tumour, node = ball([15 + k, 14, 17], 4 + k), ball([20, 20, 8 + k], 3) * (k < 2)
        reference.append([tumour, node])
        predicted.append([ball([15, 14.6, 16.5], 4 + k), ball([20, 20.5, 8 + k], 2.6) * (k < 2)])
        pet.append(0.08 * body + 0.5 * tumour + 0.3 * node + rng.normal(0, 0.015, body.shape) * body)
        ct.append(0.5 * body + 0.06 * tumour + rng.normal(0, 0.03, body.shape) * body)
    arrays = {"pet": pet, "ct": ct}
    np.savez_compressed(
        path,
        **{name: np.clip(np.array(value), 0, 1).astype(np.float32) for name, value in arrays.items()},
        reference=np.array(reference, dtype=np.uint8),
        predicted=np.array(predicted, dtype=np.uint8),
        label=np.array([f"{p}th percentile of tumour DSC" for p in (75, 50, 25)]),
    )


def write_events(path: Path, lines):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))


def write_comparison(run: Path, patients=300, bootstrap=200):
    """A finished comparison of five arms; returns what comparison.json holds."""
    found = {name: predictions(noise, patients) for name, noise in NOISE.items()}
    arms = {}
    for name, value in found.items():
        folder = run / "arms" / name.replace(":", "-")
        sites = SITES if name == "federated" else ("pooled",) if name == "pooled" else (name.removeprefix("local:"),)
        write_events(folder / "events.jsonl", events(sites))
        value.save(folder / "predictions.npz")
        scored = score_with_sites(value, bootstrap, 0)
        kind = name.partition(":")[0]
        arms[name] = {"kind": kind, **scored, "test_patients": patients, "patients": 180 if kind != "local" else 60}
    hazard, time_days, event = outcomes(patients)
    oracle = concordance(time_days, event, hazard)
    comparison = {
        "config_name": "Three phantom hospitals <demo>",
        "plan": "6 x segmentation (2 epochs), then 6 x survival (2 epochs)",
        "seed": 0,
        "bootstrap": bootstrap,
        "risk_groups": 2,
        "test_patients": patients,
        "test_events": int(event.sum()),
        "test_patients_sha256": "0123456789abcdef" * 4,
        "budget": {"segmentation_epochs": 12, "survival_epochs": 12},
        "oracle_c_index": oracle.c_index,
        "oracle_comparable_pairs": oracle.comparable_pairs,
        "arms": arms,
        "gaps": gaps(found, bootstrap, 0),
    }
    (run / "comparison.json").write_text(json.dumps(comparison))
    write_examples(run / "examples.npz")
    return comparison
