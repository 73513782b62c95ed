"""Arms of a comparison and the differences between them, in words."""

from __future__ import annotations

from adamss_fl.evaluation.arms import NULL
from adamss_fl.evaluation.strategies import STRATEGIES

FEDERATED, POOLED, LOCAL = "federated", "pooled", "local:"
_MEAN_LOCAL = "mean local"
_WORDS = {
    "fedavg": "FedAvg",
    "fedprox": "FedProx",
    "fedadam": "FedAdam",
    "fedbn": "FedBN",
    "local-gates": "Local gates",
    "personal": "Personal models",
    "sequential": "Stages in sequence",
    "per-round": "Both stages a round",
    NULL: "Shuffled outcomes",
}
_MEANING = {
    FEDERATED: "the configured federation",
    POOLED: "trained on all patients in one place",
    NULL: "pooled patients, trained on outcomes that were shuffled among them",
}


def label_of_arm(name: str) -> str:
    """An arm's name for people: ``hospital-1 alone`` for ``local:hospital-1``, ``FedBN`` for ``fedbn``."""
    if name.startswith(LOCAL):
        return f"{name.removeprefix(LOCAL)} alone"
    return _WORDS.get(name, name.capitalize())


def meaning_of_arm(name: str) -> str:
    """What an arm is, in a few words; empty where nothing is to be said."""
    return STRATEGIES[name].meaning if name in STRATEGIES else _MEANING.get(name, "")


def label_of_difference(label: str) -> str:
    """``Federated minus pooled`` for ``federated - pooled``."""
    first, _, second = label.partition(" - ")
    other = "the hospitals alone, on average" if second == _MEAN_LOCAL else label_of_arm(second)
    return f"{label_of_arm(first)} minus {second if second in (FEDERATED, POOLED) else other}"
