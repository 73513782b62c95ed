"""How a run's sites agree on the tabular vector: clinical encodings first, radiomics features when stage I is over.

Everything is learnt on training patients from sums that sites add up, so that every site encodes alike, and as it would
with all patients in one place.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import reduce
from operator import add
from typing import Any, TypeVar

import numpy as np

from adamss_fl.errors import InputError
from adamss_fl.federation.messages import Reply, Weights
from adamss_fl.federation.rounds import Rounds
from adamss_fl.radiomics import RadiomicsSettings, TabularSettings
from adamss_fl.radiomics.clinical import ClinicalSums
from adamss_fl.radiomics.encoding import TabularEncoding
from adamss_fl.radiomics.moments import Moments
from adamss_fl.radiomics.selection import CrossProducts, candidates, prune
from adamss_fl.survival.screening import CoxSums, coarse_edges, univariate_cox

SumsT = TypeVar("SumsT", ClinicalSums, Moments, CrossProducts, CoxSums)


def agree_on_clinical(settings: TabularSettings, rounds: Rounds) -> TabularEncoding | None:
    """The encoding with its clinical columns learnt and its radiomics places kept free; None where neither is used.

    Raises InputError for a column that no training patient has, and QuorumLost.
    """
    if not settings.used:
        return None
    places = settings.radiomics.select if settings.radiomics is not None else 0
    if not settings.clinical:
        return TabularEncoding(places=places)
    replies = rounds.ask("statistics", 0, {"query": "clinical"})
    sums = _merged(replies, "sums", ClinicalSums.from_plain)
    return TabularEncoding(sums.encodings(), places)


def agree_on_radiomics(
    settings: RadiomicsSettings, known: TabularEncoding, rounds: Rounds, round: int, weights: Weights
) -> TabularEncoding:
    """``known`` with its radiomics features selected; the sites keep every patient's features for the rest of the run.

    Masks are those that ``weights``, the model of ``round``, predicts. Features are standardised over all training
    patients, ranked by univariate Cox on time bins that are joined until no bin of a site holds fewer than three
    patients, and pruned by correlation; where none can be fitted, none is selected. Raises InputError where the sites'
    features differ or an answer is impossible, and QuorumLost.
    """

    def ask(query: str, **more: Any) -> list[Reply]:
        return rounds.ask("statistics", round, {"query": query, **rounds.identity.settings(), **more})

    names = _same_names(keep_radiomics(rounds, round, weights))
    moments = _merged(ask("radiomics_moments"), "moments", lambda given: Moments.from_plain(given, len(names)))
    scaling = {"mean": moments.mean.tolist(), "sd": moments.sd.tolist()}
    counts = [reply.figures["counts"] for reply in ask("follow_up")]
    edges = coarse_edges(counts, rounds.identity.edges_days)

    def cox(beta: Any) -> CoxSums:
        replies = ask("radiomics_cox", **{**scaling, "beta": beta.tolist(), "edges_days": list(edges)})
        return _merged(replies, "sums", lambda given: CoxSums.from_plain(given, len(names), len(edges) - 1))

    ranked = candidates(univariate_cox(cox, len(names)).p, names, settings.select)
    if not ranked:  # no feature could be fitted, for example since stage I finds no tumour yet
        return known.with_selected([], [], [])
    replies = ask("radiomics_products", **scaling, places=list(ranked))
    products = _merged(replies, "products", lambda given: CrossProducts.from_plain(given, len(ranked)))
    chosen = list(prune(ranked, products.correlation(), settings.select, settings.max_correlation))
    return known.with_selected(
        [names[place] for place in chosen], moments.mean[chosen].tolist(), moments.sd[chosen].tolist()
    )


def keep_radiomics(rounds: Rounds, round: int, weights: Weights) -> list[Reply]:
    """Let every site predict masks by ``weights``, the model of ``round``, and keep its patients' features.

    A site that has them already looks at nobody again. Raises QuorumLost.
    """
    settings = rounds.identity.settings()
    without_selection = None if settings["tabular"] is None else {**settings["tabular"], "selected": None}
    asked = {"query": "radiomics", **settings, "tabular": without_selection}
    return rounds.ask("statistics", round, asked, weights)


def _merged(replies: Sequence[Reply], field: str, read: Callable[[Any], SumsT]) -> SumsT:
    """The sum over sites, in the order of their names, of what ``read`` makes of a field of the figures."""
    parts: list[SumsT] = []
    for reply in replies:
        try:
            parts.append(read(reply.figures.get(field)))
        except InputError as error:
            raise InputError(f"site {reply.site}: {error}") from error
    total: SumsT = reduce(add, parts)
    return total


def _same_names(replies: Sequence[Reply]) -> tuple[str, ...]:
    """The names of the features, the same at every site."""
    found: dict[str, tuple[str, ...]] = {}
    for reply in replies:
        names: Mapping[str, Any] | Any = reply.figures.get("names")
        if not isinstance(names, (list, tuple)) or not names or not all(isinstance(name, str) for name in names):
            raise InputError(f"site {reply.site}: gave no names of radiomics features; look into its log")
        found[reply.site] = tuple(names)
    first = replies[0].site
    for site, given in found.items():
        if given != found[first]:
            raise InputError(
                f"site {site}: its radiomics features are not those of {first}; install the same extractor everywhere"
            )
    return found[first]


def follow_up_counts(times_days: Sequence[float], edges_days: Sequence[float]) -> list[int]:
    """(K + 1,) patients whose follow-up ends in each bin, the last count those past the last edge."""
    edges = np.asarray(edges_days, dtype=np.float64)
    cells = np.searchsorted(edges, np.asarray(times_days, dtype=np.float64), side="right") - 1
    return [int(count) for count in np.bincount(cells, minlength=edges.size)]
