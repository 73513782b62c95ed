"""Each strategy changes what its name says and nothing else, and trains the configured passes of every stage."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from synthetic import make_task

from adamss_fl.errors import InputError
from adamss_fl.evaluation.settings import StrategySettings
from adamss_fl.evaluation.strategies import STRATEGIES, read_strategies, task_of_strategy
from adamss_fl.federation.aggregation import GroupedAggregation
from adamss_fl.federation.plan import RoundPlan
from adamss_fl.federation.settings import BlockSettings, FederationSettings, PluginSettings
from adamss_fl.federation.task import Task
from adamss_fl.model import tensor_groups
from adamss_fl.radiomics.settings import RadiomicsSettings, TabularSettings

SETTINGS = StrategySettings(proximal_mu=0.3, server_learning_rate=0.05, personal_epochs=2)
FEDERATION = FederationSettings(
    min_sites=2,
    deadline_seconds=9.0,
    aggregator=PluginSettings("momentum", {"momentum": 0.5}),
    groups={"decoder": PluginSettings("local")},
)


def configured(plan: RoundPlan | None = None) -> Task:
    task = make_task((3, 4), federation=FEDERATION, proximal_mu=0.1)
    return task if plan is None else replace(task, plan=plan)


def mus(task: Task) -> set[float]:
    return {getattr(task.stages, stage).proximal_mu for stage in ("segmentation", "survival", "joint")}


@pytest.mark.parametrize(
    ("name", "aggregator", "groups", "mu"),
    [
        ("fedavg", PluginSettings("average"), {}, 0.0),
        ("fedprox", PluginSettings("average"), {}, 0.3),
        ("fedadam", PluginSettings("flower:FedAdam", {"eta": 0.05}), {}, 0.0),
        ("fedbn", PluginSettings("average"), {"norm_statistics": PluginSettings("local")}, 0.0),
        ("local-gates", PluginSettings("average"), {"fusion_gates": PluginSettings("local")}, 0.0),
    ],
)
def test_a_strategy_of_the_literature_is_plain_averaging_but_for_one_thing(
    name: str, aggregator: PluginSettings, groups: dict[str, PluginSettings], mu: float
) -> None:
    task = configured()
    own = task_of_strategy(name, task, SETTINGS)
    assert own.federation == replace(FEDERATION, aggregator=aggregator, groups=groups)
    assert mus(own) == {mu}
    before = task_of_strategy("fedavg", task, SETTINGS).stages
    assert replace(own, federation=FEDERATION, stages=before) == replace(task, stages=before)
    assert task == configured()


def test_what_stays_local_is_the_strategys_group() -> None:
    task = configured()
    groups = tensor_groups(task.model)
    for name, group in (("fedbn", "norm_statistics"), ("local-gates", "fusion_gates")):
        rules = GroupedAggregation(task_of_strategy(name, task, SETTINGS).federation, groups)
        assert rules.local == set(groups[group])
        assert rules.local


@st.composite
def plans(draw: st.DrawFn) -> RoundPlan:
    """Plans in epochs of stage I, stage II or both, in any order."""
    stages = st.sampled_from([("segmentation",), ("survival",), ("segmentation", "survival")])
    block = st.builds(BlockSettings, stages=stages, rounds=st.integers(1, 4), epochs=st.integers(1, 4))
    return RoundPlan(tuple(draw(st.lists(block, min_size=1, max_size=4))))


@given(plans(), st.sampled_from(sorted(STRATEGIES)), st.integers(1, 3))
def test_every_strategy_has_the_passes_of_the_configured_plan(plan: RoundPlan, name: str, passes: int) -> None:
    last = plan.blocks[-1]
    settings = replace(SETTINGS, personal_epochs=passes)
    if name == "personal" and passes >= last.rounds * (last.epochs or 0):
        with pytest.raises(InputError, match=r"personal_epochs: \d passes are all of the plan's last block"):
            task_of_strategy(name, configured(plan), settings)
        return
    lengths = task_of_strategy(name, configured(plan), settings).plan.stage_lengths()
    if name == "personal":
        lengths = {stage: lengths[stage] + passes * (stage in last.stages) for stage in lengths}
    assert lengths == plan.stage_lengths()


@given(plans())
def test_the_round_plans_are_what_their_names_say(plan: RoundPlan) -> None:
    in_turn = task_of_strategy("sequential", configured(RoundPlan(plan.blocks)), SETTINGS).plan
    assert all(len(block.stages) == 1 for block in in_turn.blocks)
    assert len({block.stages for block in in_turn.blocks}) == len(in_turn.blocks)
    together = task_of_strategy("per-round", configured(plan), SETTINGS).plan
    lengths = plan.stage_lengths()
    both = [block for block in together.blocks if len(block.stages) == 2]
    assert sum(block.rounds * (block.epochs or 0) for block in both) == (
        min(lengths.values()) if len(lengths) == 2 else 0
    )


def test_a_preset_gives_the_plan_that_it_stands_for() -> None:
    per_round = configured(RoundPlan.per_round(4))
    assert task_of_strategy("sequential", per_round, SETTINGS).plan == RoundPlan.sequential(4, 4)
    assert task_of_strategy("per-round", configured(RoundPlan.sequential(4, 4)), SETTINGS) == per_round
    surplus = task_of_strategy("per-round", configured(RoundPlan.sequential(9, 6)), SETTINGS).plan
    assert surplus.describe() == "3 x segmentation (1 epoch), then 6 x segmentation + survival (1 epoch)"


def test_stage_one_comes_first_in_sequential_whatever_the_plan() -> None:
    backwards = RoundPlan((BlockSettings(("survival",), 1, 1), BlockSettings(("segmentation",), 1, 1)))
    found = task_of_strategy("sequential", configured(backwards), SETTINGS).plan
    assert found.stages == ("segmentation", "survival")


def test_a_strategy_that_cannot_be_is_refused_with_the_reason() -> None:
    joint = configured(RoundPlan((BlockSettings(("joint",), 2, 1),)))
    radiomics = replace(configured(), tabular=TabularSettings(radiomics=RadiomicsSettings()))
    encoder = replace(configured(), stages=replace(configured().stages, transfer="encoder"))
    best = replace(configured(), select="best_validation")
    no_norms = replace(configured(), model=replace(configured().model, norm="instance", pooled="raw"))
    for name, task, message in (
        ("sequential", joint, "a joint plan has no two stages"),
        ("per-round", joint, "a joint plan has no two stages"),
        ("per-round", radiomics, "radiomics features need a finished stage I"),
        ("per-round", encoder, "stages.transfer 'encoder'"),
        ("fedbn", best, "evaluation.select 'best_validation' needs whole models"),
        ("fedbn", no_norms, "model.norm 'instance' has no norm_statistics"),
    ):
        with pytest.raises(InputError, match=message):
            task_of_strategy(name, task, SETTINGS)


def test_names_are_read_in_order_and_unknown_ones_refused() -> None:
    assert read_strategies("") == ()
    assert read_strategies("fedbn, fedprox") == ("fedbn", "fedprox")
    with pytest.raises(InputError, match="there is no strategy 'fedsgd'; known are fedavg"):
        read_strategies("fedbn,fedsgd")
    with pytest.raises(InputError, match="'fedbn' is given twice"):
        read_strategies("fedbn,fedbn")


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"proximal_mu": 0.0}, "proximal_mu is 0.0"),
        ({"server_learning_rate": float("nan")}, "server_learning_rate is nan"),
        ({"personal_epochs": 0}, "personal_epochs is 0"),
    ],
)
def test_figures_that_make_no_strategy_are_refused(wrong: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        StrategySettings(**wrong)  # type: ignore[arg-type]
