"""What sites must agree on before a run begins: versions, the model, enough patients, and the time bins."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from adamss_fl import __version__
from adamss_fl.errors import InputError
from adamss_fl.federation.messages import Reply
from adamss_fl.federation.rounds import Rounds
from adamss_fl.federation.task import Task
from adamss_fl.federation.versions import may_train_together
from adamss_fl.model import architecture_hash
from adamss_fl.survival import TimeGrid

_EVENT_CELL_DAYS = 15.0
_EVENT_RANGE_DAYS = 9000.0


def check_sites(task: Task, replies: Sequence[Reply]) -> None:
    """Raise InputError where a site cannot take part as the task stands."""
    expected = architecture_hash(task.model)
    for reply in replies:
        if not may_train_together(reply.figures["version"]):
            raise InputError(
                f"site {reply.site}: runs adamss-fl {reply.figures['version']}, the server {__version__}; "
                "install versions that may train together (the same first number; below 1.0 the same two)"
            )
        if reply.figures["architecture"] != expected:
            raise InputError(f"site {reply.site}: another model architecture; use the same model settings everywhere")
        patients = reply.figures["patients"]["train"]
        for stage in task.plan.stages:
            size = getattr(task.stages, stage).batch_size
            if patients < size:
                raise InputError(
                    f"site {reply.site}: {patients} training patients are fewer than a batch; "
                    f"set stages.{stage}.batch_size to {patients} or less (it is {size}), or leave the site out"
                )


def agree_on_edges(task: Task, rounds: Rounds) -> tuple[float, ...]:
    """Edges of the time bins: as configured, else quantiles of all sites' training events from summed counts."""
    given = task.stages.edges_days
    if given:
        grid = TimeGrid(given)
    else:
        cells = np.arange(0.0, _EVENT_RANGE_DAYS + _EVENT_CELL_DAYS, _EVENT_CELL_DAYS)
        replies = rounds.ask("statistics", 0, {"query": "event_times", "edges_days": cells.tolist()})
        counts = np.sum([reply.figures["counts"] for reply in replies], axis=0)
        grid = TimeGrid.from_counts(counts, cells, task.model.bins)
    if grid.bins != task.model.bins:
        raise InputError(
            f"stages.edges_days: {grid.bins + 1} edges make {grid.bins} bins, and model.bins is {task.model.bins}; "
            "mend either"
        )
    return grid.edges_days
