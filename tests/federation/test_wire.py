"""bfloat16 on the wire: half the bytes, a loss that is bounded in a round and does not add up over rounds."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from in_process import assert_equal_bits, site
from synthetic import make_data, make_task

from adamss_fl.federation.aggregation import GroupedAggregation
from adamss_fl.federation.checkpoint import Checkpoint, Checkpoints
from adamss_fl.federation.events import EventLog
from adamss_fl.federation.finished_run import final_weights
from adamss_fl.federation.local_sites import LocalSites
from adamss_fl.federation.messages import Collected, Instruction, Reply, Weights
from adamss_fl.federation.rounds import Rounds, RunIdentity
from adamss_fl.federation.run import run_federation
from adamss_fl.federation.settings import FederationSettings
from adamss_fl.federation.wire import Changed, pack, pack_change, unpack
from adamss_fl.model import GROUPS
from client import records

FLOATS = hnp.arrays(np.float32, st.integers(1, 20), elements=st.floats(-(2.0**99), 2.0**99, width=32))


def nearest_bfloat16(values: np.ndarray) -> np.ndarray:
    """By arithmetic: 8 significant bits, ties to the even one."""
    exponent = np.frexp(values.astype(np.float64))[1]
    exponent = np.maximum(exponent, -125)  # below it numbers are subnormal, with a fixed step
    step = np.ldexp(1.0, exponent - 8)
    return np.asarray(np.rint(values.astype(np.float64) / step) * step)


@settings(deadline=None)
@given(values=FLOATS)
def test_a_weight_travels_as_the_nearest_bfloat16(values):
    found = unpack(pack({"w": values}))["w"]
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found.astype(np.float64), nearest_bfloat16(values))


def test_moments_and_whole_numbers_travel_as_they_are():
    rng = np.random.default_rng(0)
    weights: Weights = {
        "bn.running_mean": rng.random(5, dtype=np.float32),
        "head.running_cov": rng.random((3, 3), dtype=np.float32),
        "bn.num_batches_tracked": np.array([7]),
        "w": rng.random(4, dtype=np.float32),
    }
    packed = pack(weights)
    assert {name for name, array in packed.items() if array is weights[name]} == set(weights) - {"w"}
    assert packed["w"].nbytes * 2 == weights["w"].nbytes


def test_a_change_of_a_thousandth_outlasts_the_wire_where_a_rounded_weight_would_not():
    start = {"w": np.full(1000, 1.0, np.float32)}
    trained = {"w": start["w"] + np.float32(1e-3)}
    applied = Changed(start, pack_change(trained, start))
    assert len(applied) == 1
    np.testing.assert_allclose(applied["w"] - start["w"], 1e-3, rtol=2**-8)
    np.testing.assert_array_equal(unpack(pack(trained))["w"], start["w"])


@pytest.mark.parametrize("wrong", [np.zeros(3, np.uint16), np.zeros(2, np.float32), np.zeros(2, np.float64)])
def test_what_is_no_packed_change_is_left_for_the_checks(wrong):
    assert Changed({"w": np.ones(2, np.float32)}, {"w": wrong})["w"] is wrong


class Weighed(LocalSites):
    """Sites whose messages are weighed as they would travel."""

    bytes = 0

    def broadcast(self, instruction: Instruction, deadline_seconds: float | None = None) -> Collected:
        collected = super().broadcast(instruction, deadline_seconds)
        if instruction.kind == "train":
            messages = [records.instruction_record(instruction), *map(records.reply_record, collected.replies)]
            self.bytes += sum(len(part.data) for each in messages for part in each.array_records["weights"].values())
        return collected


def test_a_run_takes_half_the_bytes_and_is_the_same_each_time(tmp_path: Path) -> None:
    edges = (0.0, 150.0, 250.0, 400.0, 2000.0)
    plain = make_task((1, 1))
    plain = replace(plain, stages=replace(plain.stages, edges_days=edges))
    packed = replace(plain, federation=replace(plain.federation, wire="bf16"))
    data = {name: make_data(name, seed=seed, test=0) for seed, name in enumerate(("a", "b"))}
    found, weighed = {}, {}
    for name, task in (("fp32", plain), ("bf16", packed), ("again", packed)):
        sites = Weighed([site(each, own, task, tmp_path / name) for each, own in data.items()])
        run_federation(task, sites, tmp_path / name)
        found[name], weighed[name] = final_weights(tmp_path / name)[0], sites.bytes
    assert 0.45 < weighed["bf16"] / weighed["fp32"] < 0.6
    assert_equal_bits(found["bf16"], found["again"])


class Drawn:
    """A site whose training goes a tenth of the way to its own target."""

    def __init__(self, name: str, target: np.ndarray) -> None:
        self.name, self._target = name, target

    def handle(self, instruction: Instruction) -> Reply:
        start = unpack(instruction.weights or {})
        moved = {"w": start["w"] + np.float32(0.1) * (self._target - start["w"])}
        figures = {"patients": 1, "steps": 1, "gate_opening": [0.5] * 5, "loss.segmentation": 1.0}
        head = (instruction.kind, self.name, instruction.run, instruction.round, instruction.attempt)
        return Reply(*head, figures=figures, weights=pack_change(moved, start))


def test_rounding_does_not_add_up_over_rounds(tmp_path: Path) -> None:
    """Closed form without rounding: w_n = T + 0.9^n (w_0 - T), T being the mean of the sites' targets."""
    rng = np.random.default_rng(1)
    targets = [rng.normal(size=500).astype(np.float32) for _ in range(2)]
    start, rounds = rng.normal(size=500).astype(np.float32), 60
    plan = make_task((rounds, 0)).plan
    settings_ = FederationSettings(min_sites=2, wire="bf16", max_change=0.0)
    groups = {group: ["w"] if group == "decoder" else [] for group in GROUPS}
    checkpoints = Checkpoints(tmp_path / "checkpoints")
    checkpoints.save(Checkpoint(0, {"w": start}, {}, {}))
    found = Rounds(
        LocalSites([Drawn(name, target) for name, target in zip("ab", targets, strict=True)]),
        plan,
        settings_,
        GroupedAggregation(settings_, groups),
        checkpoints,
        EventLog(tmp_path / "events.jsonl"),
        RunIdentity("run", (0.0, 1.0)),
    ).run(0)["w"]
    mean = np.mean(targets, axis=0)
    exact = mean + 0.9**rounds * (start - mean)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, exact, atol=2**-8 * float(np.abs(targets).max()))
