"""The two heads. Both return fp32 logits, since losses lose too much in bfloat16 (1 - 1e-5 is 1 there)."""

import math
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from adamss_fl.errors import InputError
from adamss_fl.model.blocks import Conv3d
from adamss_fl.model.layout import keep_layout
from adamss_fl.model.precision import at_least_fp32, without_autocast
from adamss_fl.model.settings import ModelSettings

MASKS = 2
FOREGROUND_PRIOR = 0.01
SEGMENTATION_WEIGHT_SUM = 0.25
"""Sum of a map's weights at the start, see :class:`SegmentationHead`."""
HIDDEN = 128


class SegmentationHead(nn.Module):
    """Conv1x1x1 from the finest decoder output to two independent maps: primary tumour (GTVp) and nodes (GTVn).

    Every voxel starts as foreground with probability near 0.01 (Lin et al., ICCV 2017, section 4.1): from 0.5 the many
    background voxels first drive small maps to zero, from where the nodes seldom come back. That takes a bias of
    logit(0.01) and features that add little to it. Each of the 2c features is a sum of three ReLUs of normed maps (the
    two branches of the last block's first convolution, and its second one), and a map of mean 0 and variance 1 has a
    ReLU of mean E|z| / 2, at most 1/2. Whatever the images are, a feature's mean over the batch is thus at most 1.5
    (1.2 where maps are normal). Weights that sum to 0.25, at any width, raise the mean logit by 0.3, at most by 0.375;
    single voxels, whose features reach several times the mean, still differ by up to 2. Weights are not negative:
    features are not either, and a map whose few weights happen to be negative would start, and stay, below the rest.
    All of this holds for norms that use the batch's statistics, or running ones that they have learnt.
    """

    def __init__(self, settings: ModelSettings) -> None:
        super().__init__()
        self.conv = Conv3d(2 * settings.width, MASKS, 1)
        nn.init.constant_(cast(Tensor, self.conv.bias), math.log(FOREGROUND_PRIOR / (1 - FOREGROUND_PRIOR)))
        with torch.no_grad():
            weight = self.conv.weight.abs_()
            weight *= SEGMENTATION_WEIGHT_SUM / weight.sum((1, 2, 3, 4), keepdim=True)

    def forward(self, feature: Tensor) -> Tensor:
        """``feature`` (B,2c,D,H,W) -> logits (B,2,D,H,W), fp32."""
        return at_least_fp32(keep_layout(self.conv(feature)))


class RunningMoments(nn.Module):
    """Base of what conditions pooled features by running moments: their mean, and how far a batch moves the moments.

    Moments are used in training and evaluation alike, and are constants for the gradient; there is no parameter. Unlike
    batch norm it does not use the batch's own moments, which a batch of few patients leaves too little of the
    differences between patients.

    The first 1 / momentum batches count equally: features have a standard deviation of about 0.1, to which an average
    that starts at 1 and forgets by 0.05 a batch takes a hundred batches, more than a site sees in several rounds. After
    :meth:`restart_mean` that holds for the mean again.
    """

    def __init__(self, features: int, momentum: float, eps: float) -> None:
        super().__init__()
        self.momentum = momentum
        self.eps = eps
        self._batches_of_mean: int | None = None
        self.running_mean: Tensor
        self.running_batches: Tensor
        self.register_buffer("running_mean", torch.zeros(features))
        self.register_buffer("running_batches", torch.zeros(1))  # a float, so that sites' counts are averaged too

    def restart_mean(self, restart: bool) -> None:
        """Before a stage: whether the features have moved as a whole, so that the mean is to be learnt anew.

        A few steps of stage I move the mean of a feature by several of its standard deviations, and hardly these. A
        mean that lags behind would pass for variance.
        """
        self._batches_of_mean = 0 if restart else None

    def move_mean(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Count the batch ``x`` (B,F) and move the mean; gives ``x`` less the new mean, and the batch's share (1,)."""
        self.running_batches.add_(1)
        share = (1 / self.running_batches).clamp_min_(self.momentum)
        share_of_mean = share
        if self._batches_of_mean is not None:
            self._batches_of_mean += 1
            share_of_mean = torch.full_like(share, max(1 / self._batches_of_mean, self.momentum))
        self.running_mean.lerp_(x.mean(0), share_of_mean)
        return x - self.running_mean, share


class RunningStandardiser(RunningMoments):
    """(x - mean) / sd per feature with running moments."""

    def __init__(self, features: int, momentum: float = 0.05, eps: float = 1e-5) -> None:
        super().__init__(features, momentum, eps)
        self.running_var: Tensor
        self.register_buffer("running_var", torch.ones(features))

    def forward(self, x: Tensor) -> Tensor:
        """``x`` (B,F) -> (B,F); in training the moments first move towards those of ``x`` (any B, also 1)."""
        if self.training:
            with torch.no_grad():
                centred, share = self.move_mean(x)
                self.running_var.lerp_(centred.square().mean(0), share)
        return (x - self.running_mean) * torch.rsqrt(self.running_var + self.eps)


class RunningWhitener(RunningMoments):
    """Standardised features made uncorrelated: (x - mean) / sd times (R + shrinkage)^(-1/2), R being their correlation.

    Pooled features are strongly correlated (one direction, the
    tumour's size, holds some 60 % of their variance), and an optimiser with a step size per weight, such as Adam, then
    moves far along that direction and overfits it. Here a direction of variance v (in units of one standardised
    feature) leaves with v / (v + shrinkage): the strong ones alike, and those in which patients hardly differ small, as
    in ridge regression. The symmetric root is the whitening that stays nearest to the features and is a continuous
    function of the moments (Kessy, Lewin and Strimmer, The American Statistician 72:309, 2018: ZCA-cor).
    """

    def __init__(self, features: int, shrinkage: float = 0.5, momentum: float = 0.05, eps: float = 1e-5) -> None:
        super().__init__(features, momentum, eps)
        self.shrinkage = shrinkage
        self._made: tuple[Tensor, int, Tensor] | None = None
        self.running_cov: Tensor
        self.register_buffer("running_cov", torch.eye(features))

    def forward(self, x: Tensor) -> Tensor:
        """``x`` (B,F) -> (B,F); in training the moments first move towards those of ``x`` (any B, also 1)."""
        with torch.no_grad():
            if self.training:
                centred, share = self.move_mean(x)
                self.running_cov.lerp_(centred.T @ centred / len(x), share)
            whiten = self._whitening().to(x.dtype)
        return (x - self.running_mean) @ whiten

    def _whitening(self) -> Tensor:
        """The matrix (F,F), float64; in evaluation it is made once for as long as the covariance stays as it is.

        That is seen by the identity of the buffer, which changes with its device and dtype, and by its version, which
        every change in place raises.
        """
        covariance = self.running_cov
        if self.training or covariance.is_inference():  # which have no version
            return self._make_whitening(covariance)
        if self._made is None or self._made[0] is not covariance or self._made[1] != covariance._version:
            self._made = (covariance, covariance._version, self._make_whitening(covariance))
        return self._made[2]

    def _make_whitening(self, covariance: Tensor) -> Tensor:
        covariance = covariance.double()
        scale = torch.rsqrt(covariance.diagonal() + self.eps)
        values, vectors = torch.linalg.eigh(scale[:, None] * covariance * scale)
        root = (vectors * torch.rsqrt(values.clamp_min(0) + self.shrinkage)) @ vectors.T
        whitening: Tensor = scale[:, None] * root
        return whitening

    def __getstate__(self) -> dict[str, Any]:
        """Without what was made of the covariance: a copy's buffer counts its versions anew."""
        return {**self.__dict__, "_made": None}


def _conditioning(settings: ModelSettings, features: int) -> nn.Module:
    if settings.pooled == "standardised":
        return RunningStandardiser(features)
    return RunningWhitener(features) if settings.pooled == "whitened" else nn.Identity()


class SurvivalHead(nn.Module):
    """Global average pool of the decoder outputs, the tabular vector, and two linear layers with dropout.

    Sigmoid of output k is the conditional probability of surviving time bin k. All in fp32. Every patient starts with
    nearly the same curve, on which half the patients outlive the last bin.
    """

    def __init__(self, settings: ModelSettings, decoder_channels: tuple[int, ...]) -> None:
        super().__init__()
        self.tabular = settings.tabular
        self.dropout = settings.dropout
        self.hidden = nn.Linear(sum(decoder_channels) + settings.tabular, HIDDEN)
        self.output = nn.Linear(HIDDEN, settings.bins)
        pooled = sum(decoder_channels)
        self.standardise = _conditioning(settings, pooled)
        nn.init.kaiming_normal_(self.hidden.weight, nonlinearity="relu")
        nn.init.zeros_(self.hidden.bias)
        survived = 0.5 ** (1 / settings.bins)
        nn.init.normal_(self.output.weight, std=0.01)
        nn.init.constant_(self.output.bias, math.log(survived / (1 - survived)))

    def restart_mean(self, restart: bool) -> None:
        """See :meth:`RunningMoments.restart_mean`; nothing where features are taken as they are."""
        if isinstance(self.standardise, RunningMoments):
            self.standardise.restart_mean(restart)

    def forward(self, outputs: tuple[Tensor, ...], tabular: Tensor | None) -> Tensor:
        """Decoder ``outputs`` of four levels, ``tabular`` (B,r) or None where r = 0 -> logits (B,K), fp32.

        Raises InputError where ``tabular`` does not fit the model's r.
        """
        batch = outputs[0].shape[0]
        given = (0,) if tabular is None else tuple(tabular.shape)
        if given != ((batch, self.tabular) if self.tabular else (0,)):
            raise InputError(
                f"tabular: expected shape {(batch, self.tabular) if self.tabular else None}, got "
                f"{None if tabular is None else given}; set model.tabular to the length of the vector"
            )
        with without_autocast(outputs[0]):
            pooled = [at_least_fp32(keep_layout(output)).mean((2, 3, 4)) for output in outputs]
            x = self.standardise(torch.cat(pooled, 1))
            if tabular is not None:
                x = torch.cat([x, tabular.to(x.dtype)], 1)
            x = functional.dropout(x, self.dropout, self.training)
            x = functional.dropout(functional.relu(self.hidden(x)), self.dropout, self.training)
            return cast(Tensor, self.output(x))
