"""The ablation's arms are valid configurations of one budget, and its table calls noise by its name."""

import argparse
import sys
from pathlib import Path
from typing import Any

import pytest

from adamss_fl.federation.plan import RoundPlan
from adamss_fl.run_config import RunConfig
from adamss_fl.survival import Difference

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture(scope="module")
def script() -> Any:
    sys.path.insert(0, str(BENCHMARKS))
    try:
        import ablation
    finally:
        sys.path.remove(str(BENCHMARKS))
    return ablation


@pytest.fixture
def configurations(script: Any, tmp_path: Path) -> dict[str, RunConfig]:
    options = argparse.Namespace(config=BENCHMARKS / "ablation.yaml", out=tmp_path, seeds=[0])
    return {name: script.shared.configuration(options, 0, script.overrides_of(options, name)) for name in script.ARMS}


def test_no_two_arms_are_the_same_configuration(configurations: dict[str, RunConfig]) -> None:
    found = list(configurations.values())
    assert all(first != second for index, first in enumerate(found) for second in found[:index])


def test_every_arm_passes_equally_often_over_each_patient(configurations: dict[str, RunConfig]) -> None:
    """But for the one that shows what stage I is worth."""
    passes = {
        name: sum(RoundPlan(config.plan.resolved()).stage_lengths().values()) for name, config in configurations.items()
    }
    plan = configurations["full"].plan
    assert passes.pop("stage II alone") == plan.survival_rounds
    assert set(passes.values()) == {plan.segmentation_rounds + plan.survival_rounds}


def test_arms_that_need_the_tabular_vector_come_last(configurations: dict[str, RunConfig]) -> None:
    used = [config.tabular.used for config in configurations.values()]
    assert used == sorted(used)
    assert sum(used) == 3


def test_arms_that_differ_in_stage_two_alone_share_stage_one(script: Any, tmp_path: Path) -> None:
    options = argparse.Namespace(config=BENCHMARKS / "ablation.yaml", out=tmp_path, seeds=[0])
    origins = script.origins(options, list(script.ARMS))
    inherits = {name for name, origin in origins.items() if origin != name}
    assert {origins[name] for name in inherits} == {"full"}
    assert inherits == {name for name in script.ARMS if name.startswith(("transfer", "with "))}


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [(-0.01, 0.02, "noise"), (0.0, 0.02, "noise"), (0.001, 0.02, "better than full"), (-0.2, -0.1, "worse than full")],
)
def test_a_difference_whose_interval_holds_0_is_noise(script: Any, low: float, high: float, expected: str) -> None:
    assert script.verdict(Difference((low + high) / 2, low, high, 100)) == expected


def test_the_table_has_a_row_an_arm_and_a_column_a_seed(script: Any) -> None:
    row = {"c_index": 0.7, "c_prime": 0.6, "dsc": {"tumour": 0.9, "nodes": None}, "cpu_seconds": 5.0}
    arms = {"full": row, "joint": {**row, "c_index": 0.6}}
    results = {seed: {"oracle_c_index": 0.8, "test_patients": 300, "arms": arms} for seed in (0, 1)}
    gaps = {
        "joint": [Difference(-0.1, -0.2, 0.05, 9), Difference(-0.1, -0.2, 0.0, 9), Difference(-0.1, -0.15, -0.05, 9)]
    }
    lines = script.table(results, gaps).splitlines()
    assert lines[-2].startswith("| full | 0.7000 | 0.600 | 0.900 | - | 5 | - |")
    assert lines[-1].endswith("| -0.1000 (-0.1500 to -0.0500) | worse than full |")
    assert {line.count("|") for line in lines[-4:]} == {11}
