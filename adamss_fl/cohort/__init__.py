"""Patients on disk: records, layouts, reading, quality checks, splits, and phantom hospitals."""

from adamss_fl.cohort.layouts import Arrays, Column, Endpoint, Layout, Table, hecktor2022, npz
from adamss_fl.cohort.phantom import PhantomSummary, make_phantom, true_pet_label
from adamss_fl.cohort.phantom_hazard import Hazard, Term, Traits
from adamss_fl.cohort.phantom_writing import read_truth
from adamss_fl.cohort.quality import QualityReport, check_cohort
from adamss_fl.cohort.reading import load_cohort, parse_clinical, read_clinical, registered_layout
from adamss_fl.cohort.records import Cohort, Patient, Problem
from adamss_fl.cohort.settings import CohortSettings, SplitSettings
from adamss_fl.cohort.splits import Split, split_cohort

__all__ = [
    "Arrays",
    "Cohort",
    "CohortSettings",
    "Column",
    "Endpoint",
    "Hazard",
    "Layout",
    "Patient",
    "PhantomSummary",
    "Problem",
    "QualityReport",
    "Split",
    "SplitSettings",
    "Table",
    "Term",
    "Traits",
    "check_cohort",
    "hecktor2022",
    "load_cohort",
    "make_phantom",
    "npz",
    "parse_clinical",
    "read_clinical",
    "read_truth",
    "registered_layout",
    "split_cohort",
    "true_pet_label",
]
