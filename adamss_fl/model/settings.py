"""Settings of the network."""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class ModelSettings:
    """Size and variants of AdaMSS; the defaults are the published network.

    width : channels c of the first PET and CT encoder level (8 as published).
    norm : normalisation layer after every convolution of a ConvBlock.
    norm_groups : number of groups where ``norm`` is ``group`` (at most the channels of the layer).
    bins : number K of survival time bins.
    tabular : length r of the tabular vector (clinical, radiomics) joined before the survival head.
    dropout : dropout probability in the survival head.
    pooled : how the pooled decoder features enter the survival head: ``raw`` as published, ``standardised`` by their
        own running mean and variance, or ``whitened`` by their running covariance too. Patients differ little beside
        the features' mean, so that raw features are learnt slowly, and features are strongly correlated. Neither adds
        a parameter.
    gates : ``learnt`` as published, or every gate's weight of the early-fusion stream fixed: ``half`` (0.5), ``early``
        (1: the early-fusion stream alone) or ``late`` (0: the late concatenation of the PET and CT streams alone).
    initialisation : ``he``: convolutions and the survival head's hidden layer start He-normal with biases of 0, the
        segmentation head near its prior and the survival head near one curve for all patients. ``torch``: every
        convolution and linear layer starts as PyTorch makes it, weights and biases uniform within 1 / sqrt(fan-in), as
        in the authors' released code. The gates start at 0.5 under both.
    """

    width: int = 8
    norm: Literal["batch", "instance", "group"] = "batch"
    norm_groups: int = 4
    bins: int = 10
    tabular: int = 0
    dropout: float = 0.5
    pooled: Literal["raw", "standardised", "whitened"] = "raw"
    gates: Literal["learnt", "half", "early", "late"] = "learnt"
    initialisation: Literal["he", "torch"] = "he"
