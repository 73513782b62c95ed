"""From the sites' tensors to one model: a rule per parameter group, always in the order of the sites' names.

Sums are taken in float64 and site by site, so the result is a function of the set of replies alone, and memory stays
at one tensor. Integer buffers are not averaged: the server's own value stays.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from adamss_fl.errors import InputError
from adamss_fl.federation.messages import Tensors, Weights
from adamss_fl.federation.settings import FederationSettings, PluginSettings
from adamss_fl.federation.spool import Selection
from adamss_fl.federation.update import Update
from adamss_fl.model import GROUPS
from adamss_fl.plugins import create

LOCAL = "local"

_FEATURES = "survival_head."
"""Moments of these names are of the features that the survival head reads."""


@dataclass(frozen=True)
class Contribution:
    """One site's part in an aggregation: its float tensors and the patients that weigh them.

    Every look-up of a tensor may read it from disk: ask for one at a time, and do not keep it.
    """

    site: str
    patients: int
    weights: Tensors = field(repr=False)


class Aggregator(Protocol):
    """Extension point ``adamss_fl.aggregator``: how the sites' float tensors become the next global ones."""

    def aggregate(self, current: Weights, contributions: Sequence[Contribution], round: int) -> Weights:
        """Next tensors, with the names, shapes and dtypes of ``current``; ``contributions`` come sorted by site."""
        ...

    def state(self) -> Weights:
        """What the next round needs, as named arrays (kept in the checkpoint); empty where nothing is."""
        ...

    def load_state(self, state: Weights) -> None:
        """Put back what :meth:`state` gave."""
        ...


class Stateless:
    """Base of aggregators that carry nothing from round to round."""

    def state(self) -> Weights:
        """Nothing."""
        return {}

    def load_state(self, state: Weights) -> None:
        """Raises ValueError where there is something to put back: the checkpoint is another aggregator's."""
        if state:
            raise ValueError(f"{type(self).__name__} keeps no state, and the checkpoint holds {sorted(state)[0]!r}")


@dataclass(frozen=True)
class Average(Stateless):
    """Mean of the sites' tensors weighted by training patients (FedAvg, McMahan et al., arXiv 1602.05629)."""

    def aggregate(self, current: Weights, contributions: Sequence[Contribution], round: int) -> Weights:
        """sum_k n_k w_k / sum_k n_k in float64, then in the tensor's own dtype."""
        return {name: weighted_mean(contributions, name).astype(value.dtype) for name, value in current.items()}


@dataclass(frozen=True)
class PooledMoments(Stateless):
    """Running means, variances and covariances of norms as the moments of the union of the sites' patients.

    feature_spread : whether the sites' means may differ in what the survival head reads because their patients differ.
        Where both stages are trained in one round they differ because each site's trunk has moved on its own; averaging
        the trunks takes that away again, and as variance between patients it would be many times the true one. Then
        false: the mean of the sites' own covariances.
    """

    feature_spread: bool = True

    def aggregate(self, current: Weights, contributions: Sequence[Contribution], round: int) -> Weights:
        """mean = sum p_k m_k and var = sum p_k (v_k + (m_k - mean)^2), p_k = n_k / n; other tensors are averaged.

        A covariance is merged as sum p_k (C_k + (m_k - mean)(m_k - mean)^T). A variance or covariance without its mean
        raises ValueError.
        """
        merged: Weights = {}
        total = sum(part.patients for part in contributions)
        for name, value in current.items():
            kind = next((kind for kind in ("running_var", "running_cov") if name.endswith(kind)), None)
            if kind is None:
                merged[name] = weighted_mean(contributions, name).astype(value.dtype)
                continue
            mean_name = name.removesuffix(kind) + "running_mean"
            if mean_name not in current:
                raise ValueError(f"{name} cannot be merged without {mean_name}")
            mean = weighted_mean(contributions, mean_name)
            union = np.zeros(value.shape, dtype=np.float64)
            for part in contributions:
                spread = part.weights[mean_name].astype(np.float64) - mean
                if name.startswith(_FEATURES) and not self.feature_spread:
                    spread = np.zeros_like(spread)
                between = np.outer(spread, spread) if kind == "running_cov" else spread * spread
                union += (part.patients / total) * (part.weights[name].astype(np.float64) + between)
            merged[name] = union.astype(value.dtype)
        return merged


@dataclass
class ServerMomentum:
    """FedAvg with momentum at the server (FedAvgM, Hsu et al., arXiv 1909.06335).

    momentum : in [0, 1); learning_rate : step along the averaged change, above 0.
    """

    momentum: float = 0.9
    learning_rate: float = 1.0
    _velocity: Weights = field(default_factory=dict, init=False, repr=False)

    def __post_init__(self) -> None:
        if not 0.0 <= self.momentum < 1.0 or self.learning_rate <= 0.0:
            raise ValueError("momentum lies in [0, 1) and learning_rate above 0")

    def aggregate(self, current: Weights, contributions: Sequence[Contribution], round: int) -> Weights:
        """v = momentum * v + (mean - w); w + learning_rate * v."""
        merged: Weights = {}
        for name, value in current.items():
            change = weighted_mean(contributions, name) - value.astype(np.float64)
            velocity = self.momentum * self._velocity.get(name, np.zeros_like(change)) + change
            self._velocity[name] = velocity
            merged[name] = (value.astype(np.float64) + self.learning_rate * velocity).astype(value.dtype)
        return merged

    def state(self) -> Weights:
        """The velocity of every tensor, float64."""
        return dict(self._velocity)

    def load_state(self, state: Weights) -> None:
        """Put the velocity back."""
        self._velocity = {name: value.astype(np.float64) for name, value in state.items()}


def weighted_mean(contributions: Sequence[Contribution], name: str) -> NDArray[Any]:
    """Mean of one tensor weighted by patients, float64, summed in the order given. One site gives its own bits."""
    total = sum(part.patients for part in contributions)
    mean = np.zeros(contributions[0].weights[name].shape, dtype=np.float64)
    for part in contributions:
        mean += (part.patients / total) * part.weights[name].astype(np.float64)
    return mean


class GroupedAggregation:
    """One aggregator per rule; each tensor goes to its group's.

    Running statistics of norms go to ``moments`` unless the settings name another rule for ``norm_statistics``.
    Groups under the run's default rule are aggregated together (a rule such as Krum looks at all of them).
    feature_spread : see :class:`PooledMoments`; false where a round of the plan trains stage I and then stage II.
    """

    def __init__(
        self, settings: FederationSettings, groups: Mapping[str, Sequence[str]], feature_spread: bool = True
    ) -> None:
        self.local = frozenset(
            name for group, rule in settings.groups.items() if rule.name == LOCAL for name in groups[group]
        )
        self._rules: dict[str, Aggregator] = {"default": _create(settings.aggregator, "federation.aggregator")}
        self._rule_of: dict[str, str] = {}
        named = {"norm_statistics": PluginSettings("moments", {"feature_spread": feature_spread}), **settings.groups}
        for group, rule in named.items():
            if rule.name != LOCAL:
                self._rules[group] = _create(rule, f"federation.groups.{group}")
        for group in GROUPS:
            for name in groups[group]:
                self._rule_of[name] = group if group in self._rules else "default"

    def shared(self, weights: Weights) -> Weights:
        """The tensors that leave a site."""
        return {name: value for name, value in weights.items() if name not in self.local}

    def aggregate(self, current: Weights, updates: Sequence[Update], round: int) -> Weights:
        """Next global weights; integer buffers and local groups keep the values of ``current``."""
        ordered = sorted(updates, key=lambda update: update.site)
        merged = dict(current)
        for key, rule in self._rules.items():
            names = [
                name
                for name, value in current.items()
                if self._rule_of[name] == key and name not in self.local and np.issubdtype(value.dtype, np.floating)
            ]
            if not names:
                continue
            parts = [Contribution(update.site, update.patients, Selection(update.weights, names)) for update in ordered]
            merged.update(rule.aggregate({name: current[name] for name in names}, parts, round))
        return merged

    def state(self) -> Weights:
        """Every rule's state under ``<rule>/<name>``."""
        return {f"{key}/{name}": value for key, rule in self._rules.items() for name, value in rule.state().items()}

    def load_state(self, state: Weights) -> None:
        """Put back what :meth:`state` gave."""
        for key, rule in self._rules.items():
            prefix = f"{key}/"
            rule.load_state({name[len(prefix) :]: value for name, value in state.items() if name.startswith(prefix)})


def _create(rule: PluginSettings, where: str) -> Aggregator:
    aggregator: Aggregator = create("aggregator", rule.name, rule.settings, where)
    if not hasattr(aggregator, "aggregate"):
        raise InputError(f"{where}: {rule.name!r} is no aggregator; see `adamss-fl plugins`")
    return aggregator
