"""Training at one site: a stage is run over a list of samples and gives back its figures and optimiser state."""

from adamss_fl.training.batches import Batches
from adamss_fl.training.inference import Inference, ensemble_overlap, infer
from adamss_fl.training.schedule import learning_rate
from adamss_fl.training.settings import RuntimeSettings, StageSettings, StagesSettings
from adamss_fl.training.sliding import sliding_window
from adamss_fl.training.stage import StageResult, StageWork, train_stage

__all__ = [
    "Batches",
    "Inference",
    "RuntimeSettings",
    "StageResult",
    "StageSettings",
    "StageWork",
    "StagesSettings",
    "ensemble_overlap",
    "infer",
    "learning_rate",
    "sliding_window",
    "train_stage",
]
