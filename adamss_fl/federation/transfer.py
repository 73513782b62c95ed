"""What of stage I enters stage II: the paper carries over encoder and decoder, the released code loses the decoder.

The server sets tensors back to the run's initial weights once, before the first round of stage II is sent.
"""

from collections.abc import Mapping

from adamss_fl.federation.messages import Weights

_RESET: Mapping[str, tuple[str, ...]] = {"full": (), "encoder": ("decoder.",), "none": ("encoder.", "decoder.")}
"""Prefixes of the tensors that each ``stages.transfer`` sets back, running statistics of norms among them."""

_GROUPS: Mapping[str, tuple[str, ...]] = {
    "encoder.": ("pet_encoder", "ct_encoder", "fusion_encoder", "fusion_gates"),
    "decoder.": ("decoder",),
}


def reset_names(transfer: str, weights: Weights) -> frozenset[str]:
    """Names of the tensors that ``transfer`` (``full``, ``encoder`` or ``none``) sets back."""
    return frozenset(name for name in weights if name.startswith(_RESET[transfer]))


def reset_groups(transfer: str) -> tuple[str, ...]:
    """The parameter groups with tensors that ``transfer`` sets back; none of them may stay at the sites."""
    groups = tuple(group for prefix in _RESET[transfer] for group in _GROUPS[prefix])
    return (*groups, "norm_statistics") if groups else ()


def carry_over(weights: Weights, initial: Weights, transfer: str) -> Weights:
    """``weights`` after stage I as stage II begins with them: the tensors to be set back have ``initial``'s values."""
    reset = reset_names(transfer, weights)
    return {name: initial[name] if name in reset else value for name, value in weights.items()}
