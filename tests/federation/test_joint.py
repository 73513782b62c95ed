"""The stage ``joint`` through a whole comparison: budget, optimiser state, figures and the report's curves."""

from dataclasses import replace
from pathlib import Path

from synthetic import make_data, make_task

from adamss_fl.evaluation.compare import centralized, compare
from adamss_fl.evaluation.figures import Palette, learning_figure
from adamss_fl.evaluation.report import build_report
from adamss_fl.federation.events import read_events
from adamss_fl.federation.finished_run import final_weights
from adamss_fl.federation.plan import RoundPlan
from adamss_fl.federation.settings import BlockSettings
from adamss_fl.federation.site_state import SiteState
from adamss_fl.training.settings import StageSettings


def test_a_joint_plan_is_trained_compared_and_reported(tmp_path: Path) -> None:
    stage = StageSettings(learning_rate=1e-3, batch_size=3, balanced=True, proximal_mu=0.1)
    task = replace(
        make_task(),
        plan=RoundPlan((BlockSettings(("joint",), 2, 1),)),
        stages=replace(make_task().stages, joint=stage),
    )
    assert centralized(task).stages.joint == replace(stage, proximal_mu=0.0)
    data = {name: make_data(name, 3, seed=seed, test=6) for seed, name in enumerate(("a", "b"))}
    said = compare(task, data, tmp_path, bootstrap=10)
    assert said["budget"] == {"joint_epochs": 2}
    folder = tmp_path / "arms" / "federated"
    survival, segmentation, state = final_weights(folder)
    assert survival is segmentation  # the last round trains segmentation too
    events = list(read_events(folder / "events.jsonl"))
    trained = [event["figures"] for event in events if event["kind"] == "train"]
    assert all({"loss.segmentation", "loss.survival", "balanced"} <= figures.keys() for figures in trained)
    figure = learning_figure(events, {}, Palette(("a", "b")))
    assert figure is not None
    assert "Segmentation loss" in figure
    assert "Survival loss" in figure
    kept = SiteState(folder / "sites" / "a", state["run"]).before(3)
    heads = {name.split("/")[3].split(".")[0] for name in kept if name.startswith("optimizer/joint/exp_avg/")}
    assert heads == {"encoder", "decoder", "segmentation_head", "survival_head"}
    page = build_report(tmp_path).read_text()
    assert "2 epochs of joint" in page
    assert "the last round that trained segmentation" not in page
