"""The discrete-time survival likelihood, on logits."""

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid


def discrete_likelihood(logits: Tensor, survived: Tensor, had_event: Tensor) -> Tensor:
    """Mean over batch and bins of -[s_k log p_k + e_k log(1 - p_k)], with p_k = sigmoid(logit_k).

    logits : (B, K), any float type; 16-bit logits are taken to float32 first, since 1 - 1e-5 is 1 in bfloat16.
        p_k is the conditional probability of *surviving* bin k, so the sign is the opposite of a hazard logit's.
    survived, had_event : (B, K) of 0 and 1, from ``TimeGrid.targets``.

    Returns a scalar, never negative and finite for finite logits. For 0/1 targets this is the loss of Gensheimer and
    Narasimhan, "A scalable discrete-time survival model for neural networks", PeerJ 7:e6257 (2019), divided by K:
    -[log(1 + s (p - 1)) + log(1 - e p)], without its clamps at eps. Raises ValueError where the shapes differ.
    """
    if logits.shape != survived.shape or logits.shape != had_event.shape:
        raise ValueError(
            f"logits {tuple(logits.shape)}, survived {tuple(survived.shape)}, had_event "
            f"{tuple(had_event.shape)}: all three must be (batch, bins)"
        )
    z = logits if logits.dtype == torch.float64 else logits.float()
    survived, had_event = survived.to(z), had_event.to(z)
    return -(survived * logsigmoid(z) + had_event * logsigmoid(-z)).mean()
