"""A final global model fine-tuned at every site on that site's own patients: one model a site.

The passes are the last of the configured plan, taken off the federated ones (see ``strategies.personal``), at the end
of the schedule, with the optimiser state that each site has kept from its last round. Fine-tuned weights are kept in
``RUN/personal/SITE`` and leave the site for the comparison alone, which is made where all patients are.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from adamss_fl.errors import AdamssError
from adamss_fl.federation.checkpoint import Checkpoint, Checkpoints
from adamss_fl.federation.finished_run import final_weights
from adamss_fl.federation.messages import Instruction, SiteFailure, Weights
from adamss_fl.federation.plan import trains
from adamss_fl.federation.site import Site
from adamss_fl.federation.task import Task


def fine_tune(task: Task, sites: Sequence[Site], folder: Path, passes: int) -> None:
    """Train the stages of the plan's last block ``passes`` times over each site's patients; finished sites are kept.

    task : that of the finished federated run in ``folder``. Raises AdamssError where a site cannot.
    """
    weights, _, state = final_weights(folder)
    rounds, lengths = task.plan.rounds, task.plan.stage_lengths()
    stages = task.plan.blocks[-1].stages
    for site in sites:
        kept = _kept(folder, site)
        before = kept.newest()
        if before is not None and before.state.get("run") == state["run"]:
            continue
        settings = {
            "stages": list(stages),
            "epochs": passes,
            "steps": None,
            "progress": {stage: [lengths[stage] / (lengths[stage] + passes), 1.0] for stage in stages},
            "edges_days": list(state["edges_days"]),
            "tabular": state.get("tabular"),
            "block_ends": [each.index for each in rounds if each.closes_block],
        }
        number = len(rounds) + 1
        try:
            reply = site.handle(Instruction("train", state["run"], number, 1, settings, weights))
        except SiteFailure as failure:
            raise AdamssError(
                f"{folder}: fine-tuning at {site.name}: {failure.code}; lower its learning rate"
            ) from failure
        own = site.personal_weights({**weights, **(reply.weights or {})}, state["run"], number)
        facts = {"run": state["run"], "site": site.name, "stages": list(stages), "figures": dict(reply.figures)}
        kept.save(Checkpoint(number, own, {}, facts))


def fine_tuned_weights(task: Task, site: Site, folder: Path, segmentation: Weights) -> tuple[Weights, Weights]:
    """A site's weights, final and for masks; the latter are ``segmentation`` where only survival was fine-tuned."""
    own = _kept(folder, site).load(len(task.plan.rounds) + 1).weights
    return own, own if trains(task.plan.blocks[-1].stages, "segmentation") else segmentation


def _kept(folder: Path, site: Site) -> Checkpoints:
    return Checkpoints(folder / "personal" / site.name)
