"""Whether the focus widened and the fusion adapted from stage I to stage II: figures over patients, with intervals."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from adamss_fl.evaluation.focus import MARGIN_MM, REGIONS, Array, PatientFocus
from adamss_fl.model.maps import ATTENTION_LEVELS, GATE_LEVELS

FEWEST_PATIENTS = 10
"""With fewer patients a percentile bootstrap covers far less than it says, so no interval is given."""

GATE_MEANING = (
    "The gate's weight is that of the early-fusion stream (PET and CT together from the first layer) against the late "
    "concatenation of the separate PET and CT streams. It does not weigh PET against CT."
)

_FIGURES = ("share", "enrichment", "spread", "opening", "whole")
_LEVEL = 95.0
_TUMOUR, _MARGIN, _REST = (REGIONS.index(region) for region in ("tumour", "margin", "body"))


def mean_with_interval(values: NDArray[Any], samples: int, seed: int, level: float = _LEVEL) -> dict[str, Any]:
    """Mean of the values (N,) that are known, with its percentile bootstrap interval over patients.

    level : in percent. Returns ``mean``, ``low``, ``high`` (None under ten patients) and ``patients``; all None and 0
    where no value is known.
    """
    known = np.asarray(values, np.float64)
    known = known[np.isfinite(known)]
    found: dict[str, Any] = {"mean": None, "low": None, "high": None, "patients": int(known.size)}
    if known.size:
        found["mean"] = float(known.mean())
    if known.size >= FEWEST_PATIENTS:
        weights = np.random.default_rng(seed).multinomial(known.size, np.full(known.size, 1 / known.size), size=samples)
        drawn = weights @ known / known.size
        tail = (100.0 - level) / 2
        found["low"], found["high"] = (float(value) for value in np.percentile(drawn, (tail, 100.0 - tail)))
    return found


def summarize(stages: Mapping[str, Sequence[PatientFocus]], samples: int, seed: int) -> dict[str, Any]:
    """What ``focus.json`` holds of the figures.

    stages : title -> the same N patients in the same order, one or two stages. samples : bootstrap resamples.

    Returns ``attention`` and ``gates``: a list of levels, each with ``level``, and by stage the figures; where there
    are two stages also ``difference`` (second minus first, paired by patient), ``focus`` and ``fusion`` (one summary
    test each, see :func:`focus_verdict` and :func:`fusion_verdict`).
    """
    stacked = {name: _stack(patients) for name, patients in stages.items()}
    if len(stages) == 2:
        first, second = stacked.values()
        stacked["difference"] = {name: second[name] - first[name] for name in _FIGURES}

    def interval(values: Array) -> dict[str, Any]:
        return mean_with_interval(values, samples, seed)

    def by_region(values: Array) -> dict[str, Any]:
        return {region: interval(values[:, index]) for index, region in enumerate(REGIONS)}

    some = next(iter(stacked.values()))
    attention = [
        {
            "level": level,
            "volume": by_region(some["volume"][:, index]),
            **{
                name: {
                    "share": by_region(figures["share"][:, index]),
                    "lesions": interval(figures["share"][:, index, :_MARGIN].sum(axis=1)),
                    "enrichment": by_region(figures["enrichment"][:, index]),
                    "spread": interval(figures["spread"][:, index]),
                }
                for name, figures in stacked.items()
            },
        }
        for index, level in enumerate(ATTENTION_LEVELS)
    ]
    gates = [
        {
            "level": level,
            **{
                name: {
                    "opening": by_region(figures["opening"][:, index]),
                    "whole": interval(figures["whole"][:, index]),
                    "tumour_minus_body": interval(
                        figures["opening"][:, index, _TUMOUR] - figures["opening"][:, index, _REST]
                    ),
                }
                for name, figures in stacked.items()
            },
        }
        for index, level in enumerate(GATE_LEVELS)
    ]
    found: dict[str, Any] = {"patients": len(some["spread"]), "attention": attention, "gates": gates}
    if "difference" in stacked:
        found["focus"] = focus_verdict(
            (first["spread"], second["spread"]), (first["share"], second["share"]), samples, seed
        )
        found["fusion"] = fusion_verdict(stacked["difference"]["whole"], samples, seed)
    return found


def focus_verdict(spread: tuple[Array, Array], share: tuple[Array, Array], samples: int, seed: int) -> dict[str, Any]:
    """Whether the focus widened: the paired difference in spread, mean over the levels, and sentences.

    spread : of stage I and of stage II, (N, A); share : likewise, (N, A, 5). One test on the mean over the levels, so
    that four levels are not four chances.
    """
    overall = _change([figures.mean(axis=1) for figures in spread], samples, seed)
    lesions = _change([figures[:, :, :_MARGIN].sum(axis=2).mean(axis=1) for figures in share], samples, seed)
    margin = _change([figures[:, :, _MARGIN].mean(axis=1) for figures in share], samples, seed)
    verdict = _direction(overall, "widened", "narrowed")
    if verdict == "too few":
        text = f"With {overall['patients']} patients no interval is given, so nothing is said about the focus."
        return {"verdict": verdict, "spread": overall, "lesions": lesions, "margin": margin, "sentence": text}
    size = f"the effective part of the body that holds the attention, mean over the four levels, went {_went(overall)}"
    text = (
        f"The focus {verdict} from stage I to stage II: {size}."
        if verdict != "not shown"
        else f"These patients do not show that the focus widened or narrowed: {size}, and the interval holds 0."
    )
    for part, where in ((lesions, "inside tumour and nodes"), (margin, f"within {MARGIN_MM:g} mm round them")):
        if part["low"] is not None:
            way = _direction(part, "rose", "fell").replace("not shown", "did not demonstrably change")
            text += f" The part of the attention {where} {way}: {_went(part)}."
    return {"verdict": verdict, "spread": overall, "lesions": lesions, "margin": margin, "sentence": text}


def _change(stages: Sequence[Array], samples: int, seed: int) -> dict[str, Any]:
    """The paired difference of two stages (N,), its interval, and under ``from`` and ``to`` their means."""
    first, second = stages
    found = mean_with_interval(second - first, samples, seed)
    known = np.isfinite(second - first)
    ends = (float(values[known].mean()) if known.any() else None for values in (first, second))
    return {**found, **dict(zip(("from", "to"), ends, strict=True))}


def _went(found: dict[str, Any]) -> str:
    """``from 93.6 % to 94.1 %, +0.5 percentage points (95 % interval +0.3 to +0.7)``."""
    points = {name: f"{100 * found[name]:+.2f}".replace("-", "\N{MINUS SIGN}") for name in ("mean", "low", "high")}
    return (
        f"from {100 * found['from']:.2f} % to {100 * found['to']:.2f} %, {points['mean']} percentage points "
        f"(95 % interval {points['low']} to {points['high']})"
    )


def fusion_verdict(whole: Array, samples: int, seed: int) -> dict[str, Any]:
    """Whether the fusion adapted: the paired difference in gate opening per level, and a sentence.

    whole : (N, G) stage II minus stage I. A level counts where its interval at 100 - 5/G percent leaves out 0
    (Bonferroni), so that the sentence as a whole errs in about 5 of 100 cohorts at most.
    """
    levels = [
        {"level": level, **mean_with_interval(whole[:, index], samples, seed, 100.0 - 5.0 / whole.shape[1])}
        for index, level in enumerate(GATE_LEVELS)
    ]

    def way(found: dict[str, Any]) -> str:
        return _direction(found, "early fusion", "late concatenation")

    if way(levels[0]) == "too few":
        text = f"With {levels[0]['patients']} patients no interval is given, so nothing is said about the fusion."
        return {"verdict": "too few", "levels": levels, "sentence": text}
    moved = [
        f"towards {side} at {_at(where)}"
        for side in ("early fusion", "late concatenation")
        if (where := [f"{found['level']} ({_signed(found['mean'])})" for found in levels if side == way(found)])
    ]
    still = [str(found["level"]) for found in levels if way(found) == "not shown"]
    if moved:
        text = f"The fusion adapted from stage I to stage II: the gates' mean weight moved {_listed(moved)}"
        text += f"; at {_at(still)} the interval holds 0." if still else "."
    else:
        text = "These patients do not show that the fusion adapted: at every level the interval of the change holds 0."
    return {"verdict": "adapted" if moved else "not shown", "levels": levels, "sentence": f"{text} {GATE_MEANING}"}


def _stack(patients: Sequence[PatientFocus]) -> dict[str, Array]:
    return {name: np.stack([getattr(patient, name) for patient in patients]) for name in (*_FIGURES, "volume")}


def _contrast(opening: Array) -> Array:
    return np.asarray(opening[:, _TUMOUR] - opening[:, _REST])


def _direction(found: dict[str, Any], up: str, down: str) -> str:
    if found["low"] is None:
        return "too few"
    return up if found["low"] > 0 else down if found["high"] < 0 else "not shown"


def _signed(value: float) -> str:
    return f"{value:+.3f}".replace("-", "\N{MINUS SIGN}")


def _at(levels: Sequence[str]) -> str:
    return f"level{'s' if len(levels) > 1 else ''} {_listed(levels)}"


def _listed(words: Sequence[str]) -> str:
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"
