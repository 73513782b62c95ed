"""What a stage's steps are summed up to, on the device, so that no step waits for it."""

from collections.abc import Mapping

import torch
from torch import Tensor

CHECKED_EVERY = 50
"""Steps between two checks of the losses on an accelerator; each check waits for all steps before it."""


class NonFiniteLoss(ArithmeticError):
    """The loss of a training step, or in fp16 every gradient, was infinite or not a number."""


class Tally:
    """Means of the losses by term and of the gate opening over ``total`` steps of the stage named ``stage``.

    On a CPU a loss that is not finite is found in its own step, before the gradient. On an accelerator to read a number
    is to wait, so it is found at the next of every ``CHECKED_EVERY`` steps or at the end; the first bad step is named
    all the same, and the model's weights are of no use then.
    """

    def __init__(self, stage: str, total: int, device: torch.device) -> None:
        self._stage, self._total = stage, total
        self._every = 1 if device.type == "cpu" else CHECKED_EVERY
        self._sums: dict[str, Tensor] = {}
        self._opening = torch.zeros(5, dtype=torch.float64, device=device)
        self._first_bad = torch.full((), total, device=device)

    def add(self, step: int, terms: Mapping[str, Tensor], loss: Tensor, gate_opening: Tensor) -> None:
        """Add the step number ``step`` (from 0): its scalar ``terms``, their sum ``loss``, and gate_opening (5,).

        Raises NonFiniteLoss where this is a step at which losses are checked and one was not finite.
        """
        self._first_bad = torch.where(loss.detach().isfinite(), self._first_bad, self._first_bad.clamp_max(step))
        if (step + 1) % self._every == 0:
            self._check()
        for name, term in terms.items():
            value = term.detach().double()
            self._sums[name] = self._sums[name] + value if name in self._sums else value
        self._opening += gate_opening.detach()

    def means(self) -> tuple[dict[str, float], tuple[float, ...]]:
        """Mean of each term, and mean gate opening (5,). Raises NonFiniteLoss where a loss was not finite."""
        self._check()
        steps = max(self._total, 1)
        opening = (self._opening / steps).tolist()
        return {name: float(value) / steps for name, value in self._sums.items()}, tuple(opening)

    def _check(self) -> None:
        step = int(self._first_bad)
        if step < self._total:
            raise NonFiniteLoss(f"{self._stage} loss is not finite at step {step + 1} of {self._total}")
