"""The plan of rounds: what every round covers of each stage, under both presets and with blocks of one's own."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from adamss_fl.federation.plan import RoundPlan
from adamss_fl.federation.settings import BlockSettings, PlanSettings, StageName

blocks = st.lists(
    st.builds(
        BlockSettings,
        st.sampled_from([("segmentation",), ("survival",), ("segmentation", "survival"), ("survival", "segmentation")]),
        st.integers(1, 6),
        st.integers(1, 4),
    ),
    min_size=1,
    max_size=4,
).map(lambda found: RoundPlan(tuple(found)))


@given(blocks)
def test_the_rounds_cover_every_stage_once_without_a_gap(plan: RoundPlan) -> None:
    for stage in plan.stages:
        spans = [round_.progress[stage] for round_ in plan.rounds if stage in round_.stages]
        assert spans[0][0] == 0.0
        assert spans[-1][1] == 1.0
        assert all(before[1] == after[0] for before, after in pairwise(spans))
        assert all(low < high for low, high in spans)


@given(blocks)
def test_a_rounds_share_of_a_stage_is_its_share_of_the_passes(plan: RoundPlan) -> None:
    for round_ in plan.rounds:
        assert round_.progress.keys() == set(round_.stages)
        for stage, (low, high) in round_.progress.items():
            assert high - low == pytest.approx((round_.epochs or 0) / plan.stage_lengths()[stage])


@given(blocks)
def test_rounds_are_counted_from_one_and_each_block_closes_once(plan: RoundPlan) -> None:
    rounds = plan.rounds
    assert [round_.index for round_ in rounds] == list(range(1, sum(block.rounds for block in plan.blocks) + 1))
    assert sum(round_.closes_block for round_ in rounds) == len(plan.blocks)
    assert rounds[-1].closes_block


@given(st.integers(1, 9), st.integers(1, 4))
def test_both_presets_pass_equally_often_over_every_patient(rounds: int, epochs: int) -> None:
    sequential = RoundPlan.sequential(rounds, rounds, epochs)
    per_round = RoundPlan.per_round(rounds, epochs)
    assert sequential.stage_lengths() == per_round.stage_lengths() == dict.fromkeys(sequential.stages, rounds * epochs)
    assert (len(sequential.rounds), len(per_round.rounds)) == (2 * rounds, rounds)


def test_sequential_finishes_segmentation_before_survival_begins() -> None:
    plan = RoundPlan.sequential(2, 3)
    assert [round_.stages for round_ in plan.rounds] == [("segmentation",)] * 2 + [("survival",)] * 3
    assert (plan.last_round_of("segmentation"), plan.last_round_of("survival")) == (2, 5)


def test_per_round_trains_segmentation_then_survival_in_every_round() -> None:
    plan = RoundPlan.per_round(3)
    assert [round_.stages for round_ in plan.rounds] == [("segmentation", "survival")] * 3
    assert plan.last_round_of("segmentation") == plan.last_round_of("survival") == 3


@pytest.mark.parametrize(("rounds", "stage"), [((0, 3), "survival"), ((3, 0), "segmentation")])
def test_a_stage_without_rounds_is_left_out(rounds: tuple[int, int], stage: StageName) -> None:
    plan = RoundPlan.sequential(*rounds)
    assert plan.stages == (stage,)
    other: StageName = "segmentation" if stage == "survival" else "survival"
    assert plan.last_round_of(other) == 0


@pytest.mark.parametrize("preset", ["sequential", "per-round"])
def test_a_preset_in_the_settings_is_the_plan_of_its_name(preset: str) -> None:
    settings = PlanSettings(preset, 4, 4, None, 5)  # type: ignore[arg-type]
    plan = RoundPlan(settings.resolved())
    assert plan == (RoundPlan.sequential(4, 4, None, 5) if preset == "sequential" else RoundPlan.per_round(4, None, 5))


def test_blocks_of_ones_own_are_taken_as_they_are() -> None:
    given_blocks = (BlockSettings(("survival",), 1, None, 7), BlockSettings(("segmentation",), 2, 3))
    assert PlanSettings(preset=None, blocks=given_blocks).resolved() == given_blocks


def test_joint_trains_both_losses_and_has_a_length_of_its_own() -> None:
    joint = BlockSettings(("joint",), 3, 2)
    plan = RoundPlan((joint, BlockSettings(("survival",), 1, 1)))
    assert plan.stages == ("joint", "survival")
    assert plan.stage_lengths() == {"joint": 6, "survival": 1}
    assert (plan.last_round_of("segmentation"), plan.last_round_of("survival"), plan.last_round_of("joint")) == (
        3,
        4,
        3,
    )
    assert plan.describe() == "3 x joint (2 epochs), then 1 x survival (1 epoch)"


def test_a_plan_describes_itself_in_a_line() -> None:
    assert RoundPlan.sequential(2, 1, 3).describe() == "2 x segmentation (3 epochs), then 1 x survival (3 epochs)"
    assert RoundPlan.per_round(4, None, 1).describe() == "4 x segmentation + survival (1 step)"


@pytest.mark.parametrize(
    ("faulty", "message"),
    [
        ((), "at least one block"),
        ((BlockSettings((), 1, 1),), "block 1 .* each of its stages once"),
        ((BlockSettings(("survival", "survival"), 1, 1),), "each of its stages once"),
        ((BlockSettings(("survival",), 1, 1), BlockSettings(("survival",), 0, 1)), "block 2 .* at least one round"),
        ((BlockSettings(("survival",), 1),), "either epochs or steps"),
        ((BlockSettings(("survival",), 1, 1, 1),), "either epochs or steps"),
        ((BlockSettings(("survival",), 1, 0),), "at least one epoch or step"),
    ],
)
def test_a_plan_that_cannot_be_run_is_refused_by_block(faulty: tuple[BlockSettings, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        RoundPlan(faulty)


def test_a_stage_measured_in_two_units_is_refused() -> None:
    plan = RoundPlan((BlockSettings(("survival",), 1, 1), BlockSettings(("survival",), 1, None, 5)))
    with pytest.raises(ValueError, match="survival must be measured in epochs or in steps"):
        plan.stage_lengths()


def test_a_plan_tells_whether_a_round_trains_stage_two_on_a_trunk_of_its_own() -> None:
    assert RoundPlan.per_round(2).trains_both_in_a_round
    assert not RoundPlan.sequential(2, 2).trains_both_in_a_round
    assert not RoundPlan((BlockSettings(("joint",), 1, 1),)).trains_both_in_a_round
    mixed = (BlockSettings(("segmentation",), 1, 1), BlockSettings(("segmentation", "survival"), 1, 1))
    assert RoundPlan(mixed).trains_both_in_a_round
