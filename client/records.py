"""The codec between this project's messages and Flower's records, for both ends of the wire.

A message is a RecordDict of a ConfigRecord ``head``, which holds one JSON text, and, where there are weights, an
ArrayRecord ``weights`` of parts of some 22 MB, each of them whole tensors in safetensors' format. Flower asks for each
array by a request of its own, and a model has hundreds of tensors; it holds an array three times while it puts it
together, and so a small part of the model. Python writes a float as the shortest text that reads back as the same
float, so figures survive exactly; arrays keep dtype, shape and bits. Nothing is ever pickled.
"""

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, get_args

from flwr.app import Array, ArrayRecord, ConfigRecord, RecordDict
from safetensors import SafetensorError
from safetensors.numpy import load as load_safetensors
from safetensors.numpy import save as save_safetensors

from adamss_fl.federation.messages import Instruction, Kind, Reply, Tensors, Weights, as_wire

HELLO = "query.hello"
"""Message type that asks a node for its site's name alone."""

MESSAGE_TYPES: Mapping[Kind, str] = {
    "describe": "query",
    "statistics": "query",
    "train": "train",
    "evaluate": "evaluate",
}
"""Flower's message type for each kind of instruction."""

_HEAD, _WEIGHTS, _FORMAT = "head", "weights", "safetensors"
_PART_BYTES = 22 * 2**20
_CODE = re.compile(r"[a-z][a-z0-9_]{0,39}")


class MalformedRecord(ValueError):
    """A record that is no message of ours; its text names the part, never what the other end wrote there."""


@dataclass(frozen=True)
class Refusal:
    """A site's answer where it could not do what it was told: a code, never a text."""

    code: str
    run: str
    round: int
    attempt: int


def instruction_record(instruction: Instruction) -> RecordDict:
    """Return ``instruction`` as Flower's record; raises TypeError where its settings are not JSON-able."""
    head = {
        "kind": instruction.kind,
        "run": instruction.run,
        "round": instruction.round,
        "attempt": instruction.attempt,
        "settings": dict(instruction.settings),
    }
    return _record(head, instruction.weights)


def read_instruction(record: RecordDict) -> Instruction:
    """Return the instruction in ``record``; raises MalformedRecord where there is none."""
    head = _head(record)
    return Instruction(
        kind=_kind(head),
        run=_field(head, "run", str),
        round=_field(head, "round", int),
        attempt=_field(head, "attempt", int),
        settings=_field(head, "settings", dict),
        weights=_weights(record),
    )


def reply_record(reply: Reply) -> RecordDict:
    """Return ``reply`` as Flower's record; raises TypeError where its figures are not JSON-able."""
    head = {
        "kind": reply.kind,
        "site": reply.site,
        "run": reply.run,
        "round": reply.round,
        "attempt": reply.attempt,
        "figures": dict(reply.figures),
    }
    return _record(head, reply.weights)


def refusal_record(code: str, instruction: Instruction | None = None) -> RecordDict:
    """Return a refusal of ``instruction``; a code with more in it than ``[a-z0-9_]`` becomes ``site_error``."""
    safe = code if _CODE.fullmatch(code) else "site_error"
    run, round_, attempt = (
        ("", 0, 0) if instruction is None else (instruction.run, instruction.round, instruction.attempt)
    )
    return _record({"refused": safe, "run": run, "round": round_, "attempt": attempt}, None)


def read_answer(record: RecordDict) -> Reply | Refusal:
    """Return what a site answered; raises MalformedRecord where it is neither a reply nor a refusal."""
    head = _head(record)
    run, round_, attempt = _field(head, "run", str), _field(head, "round", int), _field(head, "attempt", int)
    if "refused" in head:
        code = _field(head, "refused", str)
        return Refusal(code if _CODE.fullmatch(code) else "site_error", run, round_, attempt)
    return Reply(
        kind=_kind(head),
        site=_field(head, "site", str),
        run=run,
        round=round_,
        attempt=attempt,
        figures=_field(head, "figures", dict),
        weights=_weights(record),
    )


def is_code(text: str) -> bool:
    """Whether ``text`` can be a refusal's code, and so no exception's text."""
    return _CODE.fullmatch(text) is not None


def hello_record(site: str = "") -> RecordDict:
    """Return the question for a node's site name (empty), or the answer to it."""
    return _record({"site": site}, None)


def read_hello(record: RecordDict) -> str:
    """Return the site name a node gives; raises MalformedRecord where it gives none."""
    site: str = _field(_head(record), "site", str)
    return site


def _record(head: Mapping[str, Any], weights: Tensors | None) -> RecordDict:
    parts: dict[str, ConfigRecord | ArrayRecord] = {_HEAD: ConfigRecord({"json": json.dumps(head)})}
    if weights is not None:
        packed = [save_safetensors(part) for part in _in_parts(as_wire(weights))]
        parts[_WEIGHTS] = ArrayRecord(
            {f"{place:04d}": Array("uint8", (len(blob),), _FORMAT, blob) for place, blob in enumerate(packed)}
        )
    return RecordDict(parts)  # type: ignore[arg-type]  # a dict of two of the three record types


def _head(record: RecordDict) -> dict[str, Any]:
    try:
        text = record.config_records[_HEAD]["json"]
    except KeyError:
        raise MalformedRecord("head") from None
    try:
        head = json.loads(text) if isinstance(text, str) else None
    except (ValueError, RecursionError):
        head = None
    if not isinstance(head, dict):
        raise MalformedRecord("head")
    return head


def _field(head: Mapping[str, Any], name: str, expected: type[Any]) -> Any:
    value = head.get(name)
    if not isinstance(value, expected) or isinstance(value, bool):
        raise MalformedRecord(name)
    return value


def _kind(head: Mapping[str, Any]) -> Kind:
    kind: Kind = _field(head, "kind", str)
    if kind not in get_args(Kind):
        raise MalformedRecord("kind")
    return kind


def _in_parts(weights: Weights) -> Iterator[Weights]:
    """Yield ``weights`` in their order, as many tensors together as stay below the size of a part; at least once."""
    part: Weights = {}
    size = 0
    for name, tensor in weights.items():
        if part and size + tensor.nbytes > _PART_BYTES:
            yield part
            part, size = {}, 0
        part[name] = tensor
        size += tensor.nbytes
    yield part


def _weights(record: RecordDict) -> Weights | None:
    if _WEIGHTS not in record:
        return None
    found: Weights = {}
    try:
        for part in record.array_records[_WEIGHTS].values():
            tensors = load_safetensors(part.data) if part.stype == _FORMAT else None
            if tensors is None or found.keys() & tensors.keys():
                raise MalformedRecord("weights")
            found |= tensors
    except (KeyError, TypeError, ValueError, MemoryError, OverflowError, SafetensorError):
        raise MalformedRecord("weights") from None
    return {name: found[name] for name in sorted(found)}
