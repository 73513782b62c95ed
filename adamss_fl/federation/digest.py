"""The digest of a message: the same at both ends of the wire, and in any run of any program that follows the rule."""

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from adamss_fl.federation.messages import Instruction, Reply, as_wire


def message_digest(message: Instruction | Reply) -> tuple[str, int]:
    """SHA-256 of a message in a form that depends on its content alone, and the bytes of that form.

    The form is: the length of a head as 8 bytes, big-endian; the head, JSON with sorted keys and no blanks, of kind,
    run, round, attempt, settings (or site and figures), and name, dtype and shape of every tensor in the order of
    their names; then the tensors' bytes in that order, last index fastest, as they travel (see ``as_wire``). In
    settings and figures a text is written with ``s:`` before it, and a float as ``f:`` and its exact hexadecimal form.
    Raises TypeError where settings or figures are not JSON-able.
    """
    head: dict[str, Any] = {
        "kind": message.kind,
        "run": message.run,
        "round": message.round,
        "attempt": message.attempt,
    }
    if isinstance(message, Reply):
        head |= {"site": message.site, "figures": _exact(message.figures)}
    else:
        head |= {"settings": _exact(message.settings)}
    tensors = None if message.weights is None else as_wire(message.weights)
    if tensors is not None:
        head["tensors"] = [[name, array.dtype.str, list(array.shape)] for name, array in tensors.items()]
    text = json.dumps(head, sort_keys=True, separators=(",", ":"), allow_nan=False).encode()
    digest, size = hashlib.sha256(len(text).to_bytes(8, "big") + text), 8 + len(text)
    for array in (tensors or {}).values():
        digest.update(array.tobytes())
        size += array.nbytes
    return digest.hexdigest(), size


def _exact(value: Any) -> Any:
    """``value`` with texts and floats told apart and floats exact; raises TypeError where JSON has no such thing."""
    if value is None or isinstance(value, (bool, int)):
        return value
    if isinstance(value, str):
        return f"s:{value}"
    if isinstance(value, float):
        return f"f:{value.hex()}"
    if isinstance(value, Mapping):
        return {str(key): _exact(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [_exact(inner) for inner in value]
    raise TypeError(f"a {type(value).__name__} is nothing that JSON has")
