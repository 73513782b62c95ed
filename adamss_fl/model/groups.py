"""Named parameter groups: every tensor of the model's state belongs to exactly one."""

from collections.abc import Iterable

from torch import nn

from adamss_fl.errors import InputError

GROUPS = (
    "pet_encoder",
    "ct_encoder",
    "fusion_encoder",
    "fusion_gates",
    "decoder",
    "segmentation_head",
    "survival_head",
    "norm_statistics",
)

_NORM_STATISTICS = ("running_mean", "running_var", "running_cov", "running_batches", "num_batches_tracked")
_BY_PREFIX = (
    ("encoder.pet.", "pet_encoder"),
    ("encoder.ct.", "ct_encoder"),
    ("encoder.fusion.", "fusion_encoder"),
    ("encoder.gates.", "fusion_encoder"),
    ("decoder.", "decoder"),
    ("segmentation_head.", "segmentation_head"),
    ("survival_head.", "survival_head"),
)


def group_of(name: str) -> str:
    """The group of the tensor ``name`` of AdaMSS's ``state_dict``.

    ``fusion_gates`` are the two 1x1x1 convolutions of each gate; the gate's 3x3x3 block is part of ``fusion_encoder``.
    Norm scales and shifts belong with their block, running statistics to ``norm_statistics``.
    Raises KeyError for a foreign name.
    """
    if name.rsplit(".", 1)[-1] in _NORM_STATISTICS:
        return "norm_statistics"
    if name.startswith("encoder.gates.") and ".contrast." in name:
        return "fusion_gates"
    for prefix, group in _BY_PREFIX:
        if name.startswith(prefix):
            return group
    raise KeyError(name)


def parameter_groups(model: nn.Module) -> dict[str, tuple[str, ...]]:
    """Names of ``model``'s state-dict tensors by group: exactly :data:`GROUPS`, each tensor once, names sorted."""
    names: dict[str, list[str]] = {group: [] for group in GROUPS}
    for name in sorted(model.state_dict()):
        names[group_of(name)].append(name)
    return {group: tuple(members) for group, members in names.items()}


def names_in(model: nn.Module, groups: Iterable[str]) -> frozenset[str]:
    """Names of the tensors in any of ``groups``. Raises InputError for an unknown group."""
    members = parameter_groups(model)
    wanted = tuple(groups)
    unknown = sorted(set(wanted) - set(members))
    if unknown:
        raise InputError(f"parameter groups: unknown {', '.join(unknown)}; known are {', '.join(GROUPS)}")
    return frozenset(name for group in wanted for name in members[group])


def count_parameters(model: nn.Module, groups: Iterable[str] = GROUPS) -> int:
    """Number of trainable scalars in ``groups`` (running statistics are not trained, so they count nothing)."""
    names = names_in(model, groups)
    return sum(parameter.numel() for name, parameter in model.named_parameters() if name in names)
