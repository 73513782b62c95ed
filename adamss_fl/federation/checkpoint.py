"""Checkpoints of a run: a folder a round, whole or absent, the newest whole one being the truth."""

import hashlib
import json
import os
import shutil
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.numpy import load as load_safetensors
from safetensors.numpy import save_file as save_safetensors

from adamss_fl.errors import InputError
from adamss_fl.federation.files import sync_folder, write_atomically
from adamss_fl.federation.messages import Weights, as_wire

_MODEL, _AGGREGATOR, _STATE = "model.safetensors", "aggregator.safetensors", "state.json"


@dataclass(frozen=True)
class Checkpoint:
    """A run after a round.

    round : 0 before the first; weights : the global model; aggregator : state of the aggregation rules.
    state : JSON facts that go with it (run, time bins, what was trained).
    """

    round: int
    weights: Weights
    aggregator: Weights
    state: Mapping[str, Any]


class Checkpoints:
    """The checkpoints under ``RUN/checkpoints``.

    folder : made at the first save; keep : how many of the newest stay, besides those saved with ``pin``.
    """

    def __init__(self, folder: Path, keep: int = 2) -> None:
        self.folder = folder
        self.keep = keep

    def save(self, checkpoint: Checkpoint, pin: bool = False, spare: Collection[int] = ()) -> Path:
        """Write one checkpoint atomically and remove those that are neither pinned nor among the newest.

        spare : rounds that this call does not remove either.
        """
        target = self.folder / f"round-{checkpoint.round:04d}"
        beside = self.folder / f".round-{checkpoint.round:04d}.{os.getpid()}.part"
        for left_by_a_crash in self.folder.glob(".round-*.part"):
            shutil.rmtree(left_by_a_crash)
        beside.mkdir(parents=True)
        digests = {_MODEL: _save_tensors(checkpoint.weights, beside / _MODEL)}
        if checkpoint.aggregator:
            digests[_AGGREGATOR] = _save_tensors(checkpoint.aggregator, beside / _AGGREGATOR)
        state = {"round": checkpoint.round, "pinned": pin, "sha256": digests, "state": dict(checkpoint.state)}
        write_atomically(beside / _STATE, json.dumps(state, allow_nan=False, indent=2).encode())
        if target.exists():
            shutil.rmtree(target)
        beside.rename(target)
        sync_folder(self.folder)
        self._prune(spare)
        return target

    def rounds(self) -> list[int]:
        """Rounds that have a folder, ascending; a folder may still prove torn."""
        names = [path.name for path in self.folder.glob("round-*") if path.is_dir()] if self.folder.is_dir() else []
        return sorted(int(name.removeprefix("round-")) for name in names if name.removeprefix("round-").isdigit())

    def load(self, round: int) -> Checkpoint:
        """The checkpoint of one round. Raises InputError where it is absent, torn or altered."""
        folder = self.folder / f"round-{round:04d}"
        try:
            state = json.loads((folder / _STATE).read_bytes())
            facts, digests = state["state"], {_MODEL: state["sha256"][_MODEL], **state["sha256"]}
            blobs = {name: (folder / name).read_bytes() for name in digests}
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise InputError(f"{folder}: no whole checkpoint ({type(error).__name__}); use another round") from error
        for name, blob in blobs.items():
            if hashlib.sha256(blob).hexdigest() != digests[name]:
                raise InputError(f"{folder / name}: truncated or altered since it was written; use another round")
        try:
            tensors = {name: load_safetensors(blob) for name, blob in blobs.items()}
        except SafetensorError as error:
            raise InputError(f"{folder}: not readable as safetensors; use another round") from error
        return Checkpoint(round, tensors[_MODEL], tensors.get(_AGGREGATOR, {}), facts)

    def newest(self) -> Checkpoint | None:
        """The newest whole checkpoint, passing over torn ones; None where there is none."""
        for round_ in reversed(self.rounds()):
            try:
                return self.load(round_)
            except InputError:
                continue
        return None

    def _prune(self, spare: Collection[int]) -> None:
        for round_ in self.rounds()[: -self.keep]:
            folder = self.folder / f"round-{round_:04d}"
            if round_ not in spare and not _is_pinned(folder):
                shutil.rmtree(folder)


def _save_tensors(tensors: Weights, path: Path) -> str:
    """Write a file in safetensors' format, without a second copy in memory; its SHA-256, once it is on the disk."""
    save_safetensors(as_wire(tensors), path)
    with path.open("rb+") as file:
        os.fsync(file.fileno())
        return hashlib.file_digest(file, "sha256").hexdigest()


def _is_pinned(folder: Path) -> bool:
    """Whether a checkpoint is to stay; a torn one is not."""
    try:
        return bool(json.loads((folder / _STATE).read_bytes())["pinned"])
    except (OSError, ValueError, KeyError, TypeError):
        return False
