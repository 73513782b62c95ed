"""Cohorts to test on: a hand-made hospital, and a small phantom made once."""

from pathlib import Path

import pytest
from small_hospital import Hospital

from adamss_fl.cohort import PhantomSummary, make_phantom


@pytest.fixture
def hospital(tmp_path: Path) -> Hospital:
    made = Hospital(tmp_path / "hospital")
    for k in range(4):
        made.add(f"P-{k}", time=100 * (k + 1), event=k % 2)
    return made


@pytest.fixture(scope="session")
def phantom(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, PhantomSummary]:
    out = tmp_path_factory.mktemp("phantom") / "hospitals"
    return out, make_phantom(out, sites=3, patients=12, size=32, seed=7)
