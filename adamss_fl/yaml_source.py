"""YAML as plain data that remembers where each key stands, so that an error can name file, line and key."""

import json
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import yaml

from adamss_fl.errors import InputError

Key: TypeAlias = tuple[str | int, ...]
"""The way to a value: ``("sites", 0, "path")``."""


class _Loader(yaml.SafeLoader):
    """Safe YAML in which ``1e-3`` is a number, as people expect, and a date stays text."""


class _Dumper(yaml.SafeDumper):
    """Writes what ``_Loader`` reads back as the same value."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


_LINE_BREAKS = set("\x85\u2028\u2029\ufeff")
_FLOAT = re.compile(r"^[-+]?(?:[0-9][0-9_]*)(?:\.[0-9_]*)?[eE][-+]?[0-9]+$")
for _class in (_Loader, _Dumper):
    _class.yaml_implicit_resolvers = {
        first: [(tag, pattern) for tag, pattern in resolvers if tag != "tag:yaml.org,2002:timestamp"]
        for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }
    for _first in "-+0123456789":
        _class.yaml_implicit_resolvers[_first] = [
            ("tag:yaml.org,2002:float", _FLOAT),
            *_class.yaml_implicit_resolvers.get(_first, []),
        ]


@dataclass
class Document:
    """A configuration file with its overrides.

    data : mappings, lists and scalars. origins : where each key was written (``configs/demo.yaml:4`` or ``--set``).
    """

    name: str
    data: dict[str, Any]
    origins: dict[Key, str]

    def where(self, key: Key) -> str:
        """``configs/demo.yaml:4: federation.aggregator``; the nearest key above where ``key`` itself is absent."""
        origin = next((self.origins[key[:n]] for n in range(len(key), -1, -1) if key[:n] in self.origins), self.name)
        return f"{origin}: {dotted(key)}" if key else origin

    def error(self, key: Key, message: str) -> InputError:
        """The InputError that names ``key``, its place and ``message``."""
        return InputError(f"{self.where(key)}: {message}")

    def override(self, text: str) -> None:
        """Change one value by ``a.b.0.c=VALUE``, VALUE being YAML; raises InputError where there is no such item.

        A mapping that is not there yet is made, and a plugin written as its bare name takes settings.
        """
        path, equals, value = text.partition("=")
        name = f"--set {text}"
        key: Key = tuple(int(part) if part.isdigit() else part for part in re.split(r"[.\[]", path.replace("]", "")))
        if not equals or "" in key:
            raise InputError(f"{name}: write it as KEY=VALUE, for example stages.survival.learning_rate=1e-3")
        node = _compose(value, name)
        target: Any = self.data
        for depth, part in enumerate(key[:-1]):
            _check_place(target, part, name, self.where(key[:depth]))
            inner = target.get(part) if isinstance(target, dict) else target[part]
            if not isinstance(inner, (dict, list)):
                inner = target[part] = {"name": inner} if isinstance(inner, str) else {}
            target = inner
        _check_place(target, key[-1], name, self.where(key[:-1]))
        for old in [old for old in self.origins if old[: len(key)] == key]:
            del self.origins[old]
        target[key[-1]] = None if node is None else _build(node, key, name, self.origins, lines=False)
        self.origins[key] = "--set"


def read(path: Path, overrides: Sequence[str] = ()) -> Document:
    """Read a YAML mapping; raises InputError for a missing file, bad YAML, a repeated key or a number without end."""
    name = str(path)
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError as error:
        raise InputError(f"{name}: there is no such file") from error
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{name}: cannot be read: {error}") from error
    node = _compose(text, name)
    origins: dict[Key, str] = {}
    data = {} if node is None else _build(node, (), name, origins)
    if not isinstance(data, dict):
        raise InputError(f"{name}:1: must be a mapping of keys to values")
    document = Document(name, data, origins)
    for override in overrides:
        document.override(override)
    return document


def dump(data: dict[str, Any]) -> str:
    """``data`` as YAML that ``read`` turns into the same data."""
    readable = not _LINE_BREAKS & set(json.dumps(data, ensure_ascii=False))  # yaml reads these as ends of lines
    return yaml.dump(data, Dumper=_Dumper, sort_keys=False, allow_unicode=readable, width=120)


def dotted(key: Key) -> str:
    """``("sites", 0, "path")`` as ``sites[0].path``."""
    return "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in key).lstrip(".")


def _compose(text: str, name: str) -> yaml.Node | None:
    try:
        return yaml.compose(text, Loader=_Loader)
    except yaml.MarkedYAMLError as error:
        line = f":{error.problem_mark.line + 1}" if error.problem_mark and not name.startswith("--set") else ""
        raise InputError(f"{name}{line}: not valid YAML: {error.problem or error.context}") from error
    except yaml.YAMLError as error:
        raise InputError(f"{name}: not valid YAML: {' '.join(str(error).split())}") from error


def _build(node: yaml.Node, key: Key, name: str, origins: dict[Key, str], lines: bool = True) -> Any:
    """The data of ``node``, noting in ``origins`` the line of every key."""

    def origin(of: yaml.Node) -> str:
        return f"{name}:{of.start_mark.line + 1}" if lines else "--set"

    def fault(of: yaml.Node, at: Key, message: str) -> InputError:
        place = origin(of) if lines else name
        return InputError(f"{place}: {dotted(at)}: {message}" if at else f"{place}: {message}")

    origins.setdefault(key, origin(node))
    if isinstance(node, yaml.MappingNode):
        built: dict[str, Any] = {}
        for key_node, value_node in node.value:
            if not isinstance(key_node, yaml.ScalarNode):
                raise fault(key_node, key, "a key must be a plain word")
            word = key_node.value
            if word == "<<":
                raise fault(key_node, key, "merge keys ('<<') are not supported; write the keys out")
            if word in built:
                raise fault(key_node, (*key, word), "the key is there twice; remove one")
            origins[(*key, word)] = origin(key_node)
            built[word] = _build(value_node, (*key, word), name, origins, lines)
        return built
    if isinstance(node, yaml.SequenceNode):
        return [_build(item, (*key, number), name, origins, lines) for number, item in enumerate(node.value)]
    try:
        value = _Loader("").construct_object(node)
    except (yaml.YAMLError, ValueError) as error:
        raise fault(node, key, "the value cannot be read as YAML of plain text, numbers and lists") from error
    if isinstance(value, float) and not math.isfinite(value):
        raise fault(node, key, f"must be a finite number, not {node.value}")
    if not isinstance(value, (str, int, float, bool, type(None))):
        raise fault(node, key, f"must be text, a number, true, false or null, not {node.value!r}")
    return value


def _check_place(target: Any, part: str | int, name: str, where: str) -> None:
    """Raise InputError unless ``part`` is a key for the mapping, or the number of an item of the list ``target``."""
    if isinstance(target, list) and not (isinstance(part, int) and part < len(target)):
        raise InputError(f"{name}: there is no item {part!r} in {where}, a list of {len(target)} counted from 0")
    if isinstance(target, dict) and not isinstance(part, str):
        raise InputError(f"{name}: {where} is a mapping and has no item {part}; name one of its keys")
