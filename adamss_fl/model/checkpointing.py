"""Activation checkpointing: a block's inner activations are made a second time in the backward pass, not kept.

The step is the same (Chen et al., "Training deep nets with sublinear memory cost", arXiv 1604.06174): the recomputation
runs under the same autocast and random state, and leaves the norms' running statistics alone, which the forward pass
has already moved. Its bits are the same except where a CPU merges the streams of a narrow network without checkpointing
(``merged_streams``), which sums in another order.
"""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

from torch import nn
from torch.utils.checkpoint import checkpoint

Run = Callable[..., Any]
"""Called with a block and its input tensors; returns the block's output."""


def keep_all(block: nn.Module, *inputs: Any) -> Any:
    """``block`` on ``inputs``, with every activation kept for the backward pass."""
    return block(*inputs)


def recompute(block: nn.Module, *inputs: Any) -> Any:
    """``block`` on ``inputs``, of whose activations only the inputs are kept for the backward pass."""

    def contexts() -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
        return nullcontext(), unmoved_statistics(block)

    return checkpoint(block, *inputs, use_reentrant=False, context_fn=contexts)


@contextmanager
def unmoved_statistics(block: nn.Module) -> Iterator[None]:
    """Within it, batch norms of ``block`` normalise by the batch but keep running moments and counter as they are.

    Momentum 0 and not ``track_running_stats``, since the operator must save the same tensors as in the forward pass.
    """
    norms = [module for module in block.modules() if isinstance(module, nn.BatchNorm3d)]
    before = [(norm.momentum, norm.num_batches_tracked) for norm in norms]
    for norm in norms:
        norm.momentum = 0.0
        norm.num_batches_tracked = None if norm.num_batches_tracked is None else norm.num_batches_tracked.clone()
    try:
        yield
    finally:
        for norm, (momentum, counter) in zip(norms, before, strict=True):
            norm.momentum, norm.num_batches_tracked = momentum, counter
