"""Flower's own strategies as aggregation rules for the float tensors: ``aggregator: flower:FedAdam``.

Usable is every strategy of ``flwr.serverapp.strategy`` that makes one model out of the sites' replies. Each round the
strategy is given the global tensors as ``configure_train`` would give them, then the sites' tensors as train replies in
the order of the sites' names, weighted by their training patients. What it keeps between rounds (moments, momentum) is
read back as arrays, so that a resumed run goes on bit for bit. Results come in the dtype of the global tensors.
"""

import inspect
import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np

from adamss_fl.errors import AdamssError, InputError

if TYPE_CHECKING:
    from adamss_fl.federation.aggregation import Contribution
    from adamss_fl.federation.messages import Weights

USABLE: Mapping[str, tuple[str, ...]] = {
    "Bulyan": ("num_malicious_nodes",),
    "FedAdagrad": ("eta", "eta_l", "tau"),
    "FedAdam": ("eta", "eta_l", "beta_1", "beta_2", "tau"),
    "FedAvg": (),
    "FedAvgM": ("server_learning_rate", "server_momentum"),
    "FedMedian": (),
    "FedProx": (),
    "FedTrimmedAvg": ("beta",),
    "FedYogi": ("eta", "eta_l", "beta_1", "beta_2", "tau"),
    "Krum": ("num_malicious_nodes",),
    "MultiKrum": ("num_malicious_nodes", "num_nodes_to_select"),
}
"""Usable strategies with the settings that change how they aggregate."""

UNUSABLE: Mapping[str, str] = {
    "DifferentialPrivacyClientSideAdaptiveClipping": "it wraps another strategy and needs Flower's own round loop",
    "DifferentialPrivacyClientSideFixedClipping": "it wraps another strategy and needs Flower's own round loop",
    "DifferentialPrivacyServerSideAdaptiveClipping": "it wraps another strategy and needs Flower's own round loop",
    "DifferentialPrivacyServerSideFixedClipping": "it wraps another strategy and needs Flower's own round loop",
    "FedXgbBagging": "it aggregates trees of XGBoost, not tensors",
    "FedXgbCyclic": "it aggregates trees of XGBoost, not tensors",
    "QFedAvg": "it needs each site's training loss, which aggregators are not given",
}
"""Strategies that cannot be an aggregation rule, and why."""

_ARRAYS, _WEIGHT = "arrays", "num-examples"
_LIKE_CURRENT = ("m_t", "v_t", "momentum_vector")


class FlowerStrategy:
    """One Flower strategy behind the Aggregator protocol; made by :func:`flower_strategy`."""

    def __init__(self, name: str, settings: Mapping[str, Any]) -> None:
        import flwr.serverapp.strategy as strategies

        self.name = name
        self._settings = dict(settings)
        with _quiet():
            self._strategy: Any = getattr(strategies, name)(**settings)

    def aggregate(self, current: "Weights", contributions: "Sequence[Contribution]", round: int) -> "Weights":
        """Return what the strategy makes of the sites' tensors, in the dtypes of ``current``.

        Raises AdamssError where there are too few sites for the strategy, or its result is not finite.
        """
        from flwr.app import Array, ArrayRecord

        self._check_enough(len(contributions))
        names = sorted(current)
        before = {name: current[name] for name in names}
        if self.name == "FedAvgM":
            self._strategy.current_arrays = ArrayRecord({name: Array(array) for name, array in before.items()})
        elif hasattr(self._strategy, "current_arrays"):
            self._strategy.current_arrays = before
        replies = [_train_reply(node, names, part) for node, part in enumerate(contributions, start=1)]
        with _quiet():
            arrays, _ = self._strategy.aggregate_train(round, replies)
        if arrays is None:
            raise AdamssError(f"flower:{self.name} made no model out of {len(contributions)} replies in round {round}")
        with np.errstate(over="ignore"):  # what overflows is found just below
            merged = {name: arrays[name].numpy().astype(before[name].dtype) for name in names}
        for name, array in merged.items():
            if not np.isfinite(array).all():
                raise AdamssError(
                    f"flower:{self.name} made {name} non-finite in round {round}; lower its learning rate"
                )
        return merged

    def state(self) -> "Weights":
        """Return what the strategy keeps: ``m_t/<tensor>``, ``v_t/<tensor>``, ``momentum_vector/<number>``."""
        kept: Weights = {}
        for attribute in _LIKE_CURRENT:
            value = getattr(self._strategy, attribute, None)
            if isinstance(value, Mapping):
                kept.update({f"{attribute}/{name}": np.asarray(array) for name, array in value.items()})
            elif value is not None:
                kept.update({f"{attribute}/{index:06d}": np.asarray(array) for index, array in enumerate(value)})
        return kept

    def load_state(self, state: "Weights") -> None:
        """Put back what :meth:`state` gave; raises ValueError where it is another strategy's."""
        kept: dict[str, dict[str, Any]] = {}
        for key in sorted(state):
            attribute, _, name = key.partition("/")
            if attribute not in _LIKE_CURRENT or not hasattr(self._strategy, attribute):
                raise ValueError(f"flower:{self.name} keeps no {key!r}: the checkpoint is another aggregator's")
            kept.setdefault(attribute, {})[name] = np.array(state[key])
        for attribute in _LIKE_CURRENT:
            if hasattr(self._strategy, attribute):
                arrays = kept.get(attribute)
                as_list = attribute == "momentum_vector" and arrays is not None
                setattr(self._strategy, attribute, list(arrays.values()) if as_list and arrays else arrays)

    def _check_enough(self, sites: int) -> None:
        """Krum scores by the n - f - 2 nearest (Blanchard et al. 2017: n >= 2f + 3), Bulyan needs n >= 4f + 3."""
        malicious = self._settings.get("num_malicious_nodes", 0)
        needed = {"Krum": 2 * malicious + 3, "MultiKrum": 2 * malicious + 3, "Bulyan": 4 * malicious + 3}.get(
            self.name, 1
        )
        if sites < needed:
            raise AdamssError(
                f"flower:{self.name} with num_malicious_nodes {malicious} needs {needed} sites, and {sites} answered"
            )


def flower_strategy(strategy: str, **settings: Any) -> FlowerStrategy:
    """Any strategy of Flower that aggregates replies, by its class name: ``flower:FedAdam``.

    strategy : a key of ``USABLE``.
    settings : the strategy's own aggregation settings, by Flower's names.

    Raises InputError where the strategy is unknown or not usable, or a setting is unknown or refused.
    """
    if strategy not in USABLE:
        why = f" is not usable: {UNUSABLE[strategy]}" if strategy in UNUSABLE else " is not one of Flower's strategies"
        raise InputError(f"flower:{strategy}{why}; usable are {', '.join(USABLE)}")
    for key, value in settings.items():
        if strategy == "FedProx":
            raise InputError(
                "flower:FedProx aggregates as FedAvg; its proximal term is a site's: set proximal_mu of a stage"
            )
        if key not in USABLE[strategy]:
            known = ", ".join(USABLE[strategy]) or "none"
            raise InputError(f"flower:{strategy} has no setting {key!r}; its settings are: {known}")
        _check_value(strategy, key, value)
    try:
        return FlowerStrategy(strategy, settings)
    except ValueError as refusal:
        raise InputError(f"flower:{strategy}: {refusal}") from refusal


def _check_value(strategy: str, key: str, value: Any) -> None:
    """Raise InputError unless ``value`` is a number of the setting's kind, finite and not negative."""
    import flwr.serverapp.strategy as strategies

    default = inspect.signature(getattr(strategies, strategy).__init__).parameters[key].default
    whole = isinstance(default, int)
    fits = isinstance(value, int if whole else (int, float)) and not isinstance(value, bool)
    least = 1 if key == "num_nodes_to_select" else 0
    if not fits or not least <= value < float("inf"):
        kind = "a whole number" if whole else "a number"
        raise InputError(f"flower:{strategy}.{key}: {kind}, {least} or more, not {value!r}")


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep Flower from reporting each aggregation on the console; the run's own event log says what happened."""
    logger = logging.getLogger("flwr")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)


def _train_reply(node: int, names: Sequence[str], part: "Contribution") -> Any:
    """Return the message that the site's train reply would have been."""
    from flwr.app import Array, ArrayRecord, Metadata, MetricRecord, RecordDict
    from flwr.app.message import make_message

    content = RecordDict(
        {
            _ARRAYS: ArrayRecord({name: Array(part.weights[name]) for name in names}),
            "metrics": MetricRecord({_WEIGHT: part.patients}),
        }
    )
    metadata = Metadata(
        run_id=0,
        message_id=str(node),
        src_node_id=node,
        dst_node_id=0,
        reply_to_message_id="0",
        group_id="",
        created_at=0.0,
        ttl=1.0,
        message_type="train",
    )
    return make_message(metadata, content)
