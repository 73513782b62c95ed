"""How many patients stand behind the figures of a site's answer.

A figure stands on the patients that its sum runs over: a mean loss on the patients of the split, a histogram or the
counts of a column's levels on all who are counted in it (single cells may be small; a hospital that minds forbids the
query; in tables of test patients and those for the comparison of sites ``min_cell`` keeps them from being so), the
overlap with a reference on the patients who have one.
"""

from collections.abc import Iterable, Mapping
from typing import Any

from adamss_fl.federation.outcome.queries import OUTCOME_QUERIES


class NoCount(ValueError):
    """An answer that does not say how many patients it stands on; its text names the figure."""


def fewest_patients(kind: str, statistic: str | None, figures: Mapping[str, Any]) -> int | None:
    """The least number of patients behind any figure of an answer; None where nobody is behind any.

    A number of 0 patients is not counted: such figures tell of nobody. Raises NoCount where a count that the answer
    must have is missing, or the query is none that is known; an answer that cannot be judged must not leave.
    """
    try:
        counts = list(_counts(kind, statistic, figures))
    except (KeyError, TypeError, AttributeError, IndexError) as error:
        raise NoCount(f"the answer to {kind} {statistic or ''} lacks a number of patients") from error
    if not all(isinstance(count, int) and not isinstance(count, bool) and count >= 0 for count in counts):
        raise NoCount(f"a number of patients in the answer to {kind} {statistic or ''} is no count")
    return min((count for count in counts if count), default=None)


def without_small_splits(figures: Mapping[str, Any], least: int) -> dict[str, Any]:
    """Figures of ``describe`` in which a split other than the training one of fewer than ``least`` patients has none.

    The server's checks want a count for every split, and a run goes on without test patients at a site, so a small
    split is told as an empty one: 0 patients, 0 events. Sums over the images of fewer patients are left out, as
    ``input_sums`` leaves them out. A small training split is left as it is: the whole answer is refused for it.
    """
    patients, events = dict(figures["patients"]), dict(figures["events"])
    for split, count in patients.items():
        if split != "train" and count < least:
            patients[split] = events[split] = 0
    inputs = {name: sums for name, sums in figures.get("inputs", {}).items() if sums[0] >= least}
    return {**figures, "patients": patients, "events": events, "inputs": inputs}


def _counts(kind: str, statistic: str | None, figures: Mapping[str, Any]) -> Iterable[Any]:
    """Numbers of patients in an answer; 0 stands for figures that tell of nobody."""
    if kind == "describe":
        return [*figures["patients"].values(), *(sums[0] for sums in figures.get("inputs", {}).values())]
    if kind == "train":
        return [figures["patients"]]
    if kind == "evaluate":
        return [figures["patients"], *([figures["masked"]] if figures["patients"] else [])]
    whole = ("event_times", "radiomics", "survival_counts", "cox", "cox_times", *OUTCOME_QUERIES)
    if kind == "statistics" and statistic in whole:
        return [figures["patients"]]
    if kind == "statistics" and statistic in ("summary", "columns"):
        if set(figures) <= {"patients", "least"}:  # a site with fewer patients than its minimum cell count
            return [figures["patients"]]
        more = figures["behind"].values() if statistic == "summary" else _of_columns(figures["sums"].values())
        return [figures["patients"], *more]
    if kind == "statistics" and statistic == "follow_up":
        return [sum(figures["counts"])]
    if kind == "statistics" and statistic == "clinical":
        columns = figures["sums"]["columns"]
        return [count for column in columns for count in (column["present"], *column["moments"]["n"])]
    if kind == "statistics" and statistic == "radiomics_moments":
        return list(figures["moments"]["n"])
    if kind == "statistics" and statistic == "radiomics_products":
        return [figures["products"]["n"]]
    if kind == "statistics" and statistic == "radiomics_cox":
        # It runs over every training patient and does not say how many they are; the site checks that beforehand.
        return [0 for _ in figures["sums"]["events"]]
    raise KeyError(kind)


def _of_columns(columns: Iterable[Mapping[str, Any]]) -> Iterable[Any]:
    for column in columns:
        yield from column["moments"]["n"]
        yield sum(column["cells"]["counts"]) + column["cells"]["hidden_patients"]
