"""Which round's model a finished run gives, for tables and the report; ``federation.selection`` has the rule."""

from pathlib import Path

from adamss_fl.errors import InputError
from adamss_fl.evaluation.report_inputs import finite, read_json
from adamss_fl.federation.selection import LEAST_PAIRS, Choice, SelectionRule, chosen_round

__all__ = ["LEAST_PAIRS", "Choice", "SelectionRule", "choice_of_run", "chosen_round", "sentence"]


def choice_of_run(run: Path) -> Choice:
    """The choice that a finished run has made, from its ``metrics.json``.

    Raises InputError where ``run`` holds no finished run, or the file does not say which round was taken.
    """
    path = run / "metrics.json"
    if not path.is_file():
        raise InputError(f"{run}: holds no finished run (metrics.json is missing); finish it or give another folder")
    metrics = read_json(path)
    taken = metrics.get("selected")
    try:
        if taken is None:
            return Choice(int(metrics["rounds"]), "the last round, as the configuration says")
        return Choice(int(taken["round"]), str(taken["reason"]), finite(taken["c_index"]))
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(f"{path}: does not say which round was taken; finish the run again") from error


def sentence(choice: Choice) -> str:
    """For a report: ``The model is that of round 7, the best of 10 validated rounds: ...``."""
    return f"The model is that of round {choice.round}, {choice.reason}."
