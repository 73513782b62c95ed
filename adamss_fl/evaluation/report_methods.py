"""How the figures of a report came about, as (term, text)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from adamss_fl.evaluation.arms import folder_name
from adamss_fl.evaluation.report_inputs import BOOTSTRAP, RunRecord, read_json
from adamss_fl.evaluation.selection import choice_of_run, sentence
from adamss_fl.federation.machines import machine_lines, machines_in
from adamss_fl.federation.uniform_batches import uniform_lines


def methods(record: RunRecord) -> list[tuple[str, str]]:
    """(term, text) of how the figures came about."""
    facts = record.comparison or record.metrics
    rows = [("Training plan", str(facts["plan"]))] if facts.get("plan") else []
    budget = facts.get("budget")
    if isinstance(budget, Mapping) and budget:
        lengths = ", ".join(f"{value} {_words(str(name))}" for name, value in budget.items())
        rows.append(
            ("Budget", f"{lengths}. The same for every arm: passes over each of its patients, schedule and settings.")
        )
    if uniform := _uniform_batches(record):
        rows.append(("Batches", uniform))
    if taken := rounds_taken(record):
        rows.append(("Round taken", " ".join(taken)))
    if beside := beside_the_images(record.main.events):
        rows.append(("Beside the images", beside))
    if facts.get("seed") is not None:
        rows.append(("Seed", str(facts["seed"])))
    if record.comparison is not None:
        rows.append(("Test patients", _test_patients(record.comparison)))
    if any(arm.overall.low is not None for arm in record.arms):
        rows.append(
            (
                "Intervals",
                f"95 % percentile bootstrap over patients, {facts.get('bootstrap', BOOTSTRAP)} resamples; for a "
                "difference of two models the same resampled patients are used for both. They cover chance in the "
                "patients judged and not in training.",
            )
        )
    rows.append(("C-index", _c_index_text(record)))
    rows.append(
        (
            "DSC",
            "Twice the shared voxels over the sum of predicted and reference voxels, summed over all patients with a "
            "reference outline before dividing (aggregated DSC).",
        )
    )
    if machines := machines_used(record.main.events):
        rows.append(("Machines", machines))
    if version := record.metrics.get("version"):
        rows.append(("Software", f"adamss-fl {version}"))
    return rows


def rounds_taken(record: RunRecord) -> list[str]:
    """A sentence for each arm of the run that selected its round; raises InputError where one does not say which."""
    if record.comparison is None:
        return [sentence(choice_of_run(record.folder))] if "selected" in record.metrics else []
    said = []
    for arm in record.arms:
        folder = record.folder / "arms" / folder_name(arm.name)
        if (folder / "metrics.json").is_file() and "selected" in read_json(folder / "metrics.json"):
            said.append(f"{arm.label}: {sentence(choice_of_run(folder))}")
    return said


def beside_the_images(events: Sequence[Mapping[str, Any]]) -> str:
    """What the survival head of a run saw beside the images, from its ``tabular`` and ``radiomics`` events."""
    places = newest(events, "tabular").get("places") or []
    selected = newest(events, "radiomics").get("selected") or []
    clinical = [str(name) for name in places if not str(name).startswith("radiomics.")]
    text = f"Clinical columns: {', '.join(clinical)}. " if clinical else ""
    if selected:
        text += (
            "Radiomics features of the masks predicted after stage I, selected on the training patients: "
            f"{', '.join(str(name) for name in selected)}. "
        )
    if text:
        text += "Scaling, levels and selection were learnt on training patients only."
    return text


def machines_used(events: Sequence[Mapping[str, Any]]) -> str:
    """Device and precision of each site's training, in one sentence where all sites have the same."""
    found = machines_in(events)
    if not found:
        return ""
    text = f"{'; '.join(machine_lines(found))}."
    if len(set(found.values())) > 1:
        text += " All trained the same network; their sums are rounded differently."
    return text


def newest(events: Sequence[Mapping[str, Any]], kind: str) -> Mapping[str, Any]:
    """The figures of a run's last event of a kind; empty where there is none, or it has none."""
    found = [event.get("figures") for event in events if event.get("kind") == kind]
    return found[-1] if found and isinstance(found[-1], Mapping) else {}


def _uniform_batches(record: RunRecord) -> str:
    """Where training fell back to uniform batches, per arm; empty where it did not."""
    said = [
        f"{arm.label}: {line}." if record.comparison is not None else f"{line[0].upper()}{line[1:]}."
        for arm in record.arms
        for line in uniform_lines(arm.events)
    ]
    return " ".join(said)


def _test_patients(comparison: Mapping[str, Any]) -> str:
    text = "The same for every arm, and in no arm's training"
    if digest := comparison.get("test_patients_sha256"):
        text += f" (SHA-256 of their sorted identifiers begins {str(digest)[:12]})"
    return text + "."


def _c_index_text(record: RunRecord) -> str:
    text = (
        "Harrell’s: among pairs of patients of whom it is known who had the event first, the share in which that "
        "patient had the higher predicted risk; equal risks count one half."
    )
    if record.metrics.get("c_index_pairs") == "within sites" and record.main.predictions is None:
        text += " Pairs are counted inside each hospital only, since patients’ risks do not leave it"
        text += "; the C-index over all pairs comes from tables." if _over_all_pairs(record) else "."
    return text


def _over_all_pairs(record: RunRecord) -> bool:
    federated = record.metrics.get("federated")
    found = federated.get("concordance") if isinstance(federated, Mapping) else None
    return isinstance(found, Mapping) and "c_index" in found


def _words(name: str) -> str:
    stage, _, unit = name.rpartition("_")
    return f"{unit} of {stage.replace('_', ' ')}" if stage else name
