"""The network: Ada-fusion encoder, Ada-focus decoder, two heads, and its weights as named groups of arrays."""

from adamss_fl.model.groups import GROUPS, count_parameters, group_of, parameter_groups
from adamss_fl.model.hardware import Precision, Resolved, resolve_precision
from adamss_fl.model.layout import keep_freed_memory
from adamss_fl.model.maps import FocusMaps, focus_maps
from adamss_fl.model.network import AdaMSS, ModelOutput, tensor_groups
from adamss_fl.model.precision import autocast, prepare, prepare_images
from adamss_fl.model.settings import ModelSettings
from adamss_fl.model.weights import Weights, architecture_hash, load_weights, misfits, to_weights

__all__ = [
    "GROUPS",
    "AdaMSS",
    "FocusMaps",
    "ModelOutput",
    "ModelSettings",
    "Precision",
    "Resolved",
    "Weights",
    "architecture_hash",
    "autocast",
    "count_parameters",
    "focus_maps",
    "group_of",
    "keep_freed_memory",
    "load_weights",
    "misfits",
    "parameter_groups",
    "prepare",
    "prepare_images",
    "resolve_precision",
    "tensor_groups",
    "to_weights",
]
