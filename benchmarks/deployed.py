"""What the benchmarks over real processes share: phantom hospitals, a federation of kits that runs, and its run."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "network"))
from processes import Federation, eventually

from adamss_fl.cohort import make_phantom

SITES = ("hospital-1", "hospital-2", "hospital-3")


@contextmanager
def running(out: Path) -> Iterator[Federation]:
    """A server and three sites in real processes, connected; all of them end with the block."""
    phantom = hospitals(out)
    federation = Federation(out.resolve() / f"federation-{int(time.time())}", {name: phantom / name for name in SITES})
    try:
        federation.start("server", *SITES)
        eventually(lambda: set(federation.connected().values()) == {"online"}, 180, "the sites do not connect")
        yield federation
    finally:
        federation.close()


def hospitals(out: Path) -> Path:
    """The folder of three small phantom hospitals, made where it is missing."""
    phantom = out.resolve() / "phantom"
    if not phantom.exists():
        make_phantom(phantom, sites=3, patients=12, size=32, seed=0)
    return phantom


def configuration(name: str, out: Path, model: Mapping[str, Any], steps: int, **plan: Any) -> Path:
    """A run of a model on tiny images, so that training is short."""
    phantom = hospitals(out)
    stage = {"batch_size": 2, "learning_rate": 1e-3}
    settings = {
        "name": name,
        "sites": [{"name": site, "path": str(phantom / site)} for site in SITES],
        "split": {"test": 0.3},
        "imaging": {"grid": [16, 16, 16], "spacing_mm": [8.0, 8.0, 8.0]},
        "augmentation": ["flip"],
        "model": {"bins": 4, **model},
        "stages": {"segmentation": stage, "survival": stage},
        "plan": {"epochs": None, "steps": steps, **plan},
        "federation": {"min_sites": 3, "deadline_seconds": 120, "attempts": 6},
        "runtime": {"device": "cpu", "precision": "fp32", "threads": 1},
    }
    path = out.resolve() / f"{name}.yaml"
    path.write_text(yaml.safe_dump(settings))
    return path
