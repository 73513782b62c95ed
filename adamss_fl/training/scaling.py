"""Loss scaling for fp16 training (Micikevicius et al., arXiv 1710.03740, section 3.2), kept between rounds."""

import numpy as np
import torch
from torch import Tensor

from adamss_fl.model import Resolved
from adamss_fl.training.optimizer import OptimizerState

SLOT = "loss_scale"
"""First part of the keys under which the scale lies beside the optimiser's state."""

FIRST_SCALE = 2.0**10
"""PyTorch's 2^16 loses the first steps of a round: the network's gradients overflow down to 2^13."""

STEPS_TO_GROW = 200
"""Good steps in turn after which the scale doubles."""

SMALLEST_SCALE = 2.0**-4
"""Below it gradients are not too large for fp16 but wrong."""


class LossScaling:
    """Scales the loss where a stage trains in fp16, whose small gradients would be 0; else changes nothing.

    A step whose gradients are not finite is left out and halves the scale; ``STEPS_TO_GROW`` good ones in turn double
    it. Scale and count belong to the optimiser's state, so that a resumed round repeats the same steps. The test for
    such gradients waits for the GPU no more often than :class:`torch.amp.GradScaler` does: never with Adam, which is
    fused.
    """

    def __init__(self, precision: Resolved, device: torch.device) -> None:
        self._device = device
        self._scaler = torch.amp.GradScaler(
            device.type, init_scale=FIRST_SCALE, growth_interval=STEPS_TO_GROW, enabled=precision == "fp16"
        )

    def backward(self, loss: Tensor) -> None:
        """Gradients of ``loss``, scaled."""
        self._scaler.scale(loss).backward()  # type: ignore[no-untyped-call]

    def unscale(self, optimizer: torch.optim.Optimizer) -> None:
        """Bring gradients to their own size, before anything is added to them or their norm is taken."""
        self._scaler.unscale_(optimizer)

    def step(self, optimizer: torch.optim.Optimizer) -> None:
        """One step of the optimiser, unless a gradient is not finite; adjusts the scale."""
        self._scaler.step(optimizer)
        self._scaler.update()

    def is_lost(self) -> bool:
        """Whether gradients stayed infinite, or not a number, however small the scale. Waits for the GPU."""
        return self._scaler.is_enabled() and self._scaler.get_scale() < SMALLEST_SCALE

    def dump(self) -> OptimizerState:
        """Scale and count of good steps as arrays of shape (1,); empty where nothing is scaled."""
        state = self._scaler.state_dict()
        if not state:
            return {}
        return {
            f"{SLOT}/scale": np.array([state["scale"]], dtype=np.float64),
            f"{SLOT}/good_steps": np.array([state["_growth_tracker"]], dtype=np.int64),
        }

    def load(self, state: OptimizerState) -> OptimizerState:
        """Take what :meth:`dump` gave out of ``state``; returns the rest, which is the optimiser's own."""
        rest = {name: array for name, array in state.items() if not name.startswith(f"{SLOT}/")}
        if self._scaler.is_enabled() and f"{SLOT}/scale" in state:
            own = self._scaler.state_dict()
            own["scale"] = float(state[f"{SLOT}/scale"][0])
            own["_growth_tracker"] = int(state[f"{SLOT}/good_steps"][0])
            self._scaler.load_state_dict(own)
        return rest
