"""Every tensor of the state belongs to exactly one group."""

import pytest
import torch

from adamss_fl.errors import InputError
from adamss_fl.model import GROUPS, AdaMSS, ModelSettings, count_parameters, group_of, parameter_groups


@pytest.fixture(params=["batch", "instance", "group"])
def model(request: pytest.FixtureRequest) -> AdaMSS:
    with torch.device("meta"):
        return AdaMSS(ModelSettings(width=1, norm=request.param))


def test_every_tensor_is_in_exactly_one_group(model: AdaMSS) -> None:
    groups = parameter_groups(model)
    assert tuple(groups) == GROUPS
    assert sorted(name for names in groups.values() for name in names) == sorted(model.state_dict())


def test_groups_count_every_trainable_scalar_once(model: AdaMSS) -> None:
    assert count_parameters(model) == sum(p.numel() for p in model.parameters())
    assert sum(count_parameters(model, (group,)) for group in GROUPS) == count_parameters(model)


def test_statistics_are_the_buffers_and_nothing_else(model: AdaMSS) -> None:
    assert set(parameter_groups(model)["norm_statistics"]) == {name for name, _ in model.named_buffers()}


def test_gate_convolutions_and_late_block_are_in_their_groups(model: AdaMSS) -> None:
    gates = parameter_groups(model)["fusion_gates"]
    assert len(gates) == 5 * 4
    assert all(".contrast." in name for name in gates)
    assert group_of("encoder.gates.level3.late.conv.weight") == "fusion_encoder"
    assert group_of("encoder.gates.level3.late.norm.running_var") == "norm_statistics"
    assert group_of("decoder.level4.attention.norm_map.weight") == "decoder"


def test_foreign_names_and_groups_are_refused(model: AdaMSS) -> None:
    with pytest.raises(KeyError):
        group_of("tracker.weight")
    with pytest.raises(InputError, match="unknown encoder; known are pet_encoder"):
        count_parameters(model, ("encoder",))
