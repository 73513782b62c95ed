"""The configuration of a run: the rooms' settings, composed and checked from one YAML file.

Every mistake is one InputError line such as
``configs/x.yaml:4: federation.agregator: unknown key 'agregator'; did you mean 'aggregator'?``.
"""

import dataclasses
import json
import types
import typing
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from adamss_fl import config_rules, yaml_source
from adamss_fl.errors import InputError
from adamss_fl.federation.plan import RoundPlan
from adamss_fl.federation.settings import PluginSettings
from adamss_fl.federation.task import Task
from adamss_fl.plugins import mistake_text, suggest
from adamss_fl.run_config import RunConfig
from adamss_fl.yaml_source import Document, Key


def task_of(config: RunConfig) -> Task:
    """The part of a configuration that server and sites agree on."""
    return Task(
        name=config.name,
        plan=RoundPlan(config.plan.resolved()),
        seed=config.seed,
        split=config.split,
        imaging=config.imaging,
        augmentation=config.augmentation,
        model=config.model,
        tabular=config.tabular,
        stages=config.stages,
        federation=config.federation,
        runtime=config.runtime,
        validate_every=config.evaluation.every if config.split.validation > 0 else 0,
        select=config.evaluation.select,
    )


def load_config(path: Path, overrides: Sequence[str] = ()) -> RunConfig:
    """Read, compose and check a configuration.

    overrides : texts ``KEY=VALUE`` such as ``stages.survival.learning_rate=1e-3`` or ``sites.0.path=/data/a``; VALUE is
        YAML. Relative folders, from the file or from an override, are relative to the configuration file.
    Raises InputError naming file, line and key.
    """
    path = Path(path)
    document = yaml_source.read(path, overrides)
    data = _shaped(document, document.data, RunConfig, ())
    try:
        # The strict rules of JSON are the ones for YAML: no "3" for 3, but a list for a tuple and 1 for 1.0.
        config: RunConfig = TypeAdapter(RunConfig).validate_json(json.dumps(data), strict=True)
    except ValidationError as error:
        raise _first_mistake(document, error) from error
    config = _with_absolute_paths(config, path.resolve().parent)
    config_rules.check(config, document)
    return config


def dump_config(config: RunConfig) -> str:
    """``config`` as YAML, every key written out, that ``load_config`` turns into an equal configuration."""
    return yaml_source.dump(_plain(config))


def _completed(kind: Any, name: str, value: Any) -> Any:
    """A block ``value`` of the field ``name``, with the defaults that this block has for itself.

    ``stages.survival`` is a StageSettings that starts with another learning rate. Without this, one key under it would
    take that back.
    """
    make = next(field.default_factory for field in dataclasses.fields(kind) if field.name == name)
    if make is dataclasses.MISSING or isinstance(make, type) or not isinstance(value, dict):
        return value
    default: Any = make()
    if not dataclasses.is_dataclass(default) or isinstance(default, PluginSettings):
        return value
    kind_of_block: Any = type(default)
    usual = kind_of_block()
    own = {each.name: getattr(default, each.name) for each in dataclasses.fields(default)}
    return {key: found for key, found in own.items() if found != getattr(usual, key)} | value


def _shaped(document: Document, value: Any, kind: Any, key: Key) -> Any:
    """``value`` with plugins written out as name and settings; raises InputError for a key that ``kind`` has not."""
    kind, item, by_name = _container(kind)
    if kind is PluginSettings:
        return _plugin(document, value, key)
    if dataclasses.is_dataclass(kind) and isinstance(value, dict):
        hints = typing.get_type_hints(kind)
        for name in value:
            if name not in hints:
                raise document.error((*key, name), f"unknown key '{name}'; {suggest(name, hints, 'keys')}")
        return {
            name: _shaped(document, _completed(kind, name, inner), hints[name], (*key, name))
            for name, inner in value.items()
        }
    if item is not None and isinstance(value, list) and not by_name:
        return [_shaped(document, inner, item, (*key, number)) for number, inner in enumerate(value)]
    if item is not None and isinstance(value, dict) and by_name:
        return {name: _shaped(document, inner, item, (*key, name)) for name, inner in value.items()}
    return value


def _container(kind: Any) -> tuple[Any, Any, bool]:
    """(the type without None, the type of its items or None, whether items are found by name)."""
    if typing.get_origin(kind) in (typing.Union, types.UnionType):
        kind = next(option for option in typing.get_args(kind) if option is not type(None))
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin is tuple:
        return kind, arguments[0], False
    if origin is not None and isinstance(origin, type) and issubclass(origin, Mapping):
        return kind, arguments[1], True
    return kind, None, False


def _plugin(document: Document, value: Any, key: Key) -> dict[str, Any]:
    """A plugin is its bare name, or a mapping with ``name`` whose other keys are its settings."""
    if isinstance(value, str):
        return {"name": value, "settings": {}}
    if not isinstance(value, dict):
        raise document.error(key, f"write a plugin's name, or a mapping with 'name' and its settings, not {value!r}")
    if not isinstance(value.get("name"), str):
        raise document.error(key, "a plugin needs its 'name'")
    return {"name": value["name"], "settings": {name: inner for name, inner in value.items() if name != "name"}}


def _first_mistake(document: Document, error: ValidationError) -> InputError:
    mistake = error.errors()[0]
    key: Key = tuple(mistake["loc"])
    given = mistake["input"]
    if mistake["type"] == "missing":
        return document.error(key, "is missing; it must be given")
    if mistake["type"] == "value_error":  # settings that check themselves say "<key> is ...; ..."
        reason = str(mistake["ctx"]["error"])
        first = reason.split()[0]
        return document.error((*key, first) if isinstance(given, dict) and first in given else key, reason)
    if mistake["type"] in ("dataclass_type", "dataclass_exact_type"):
        return document.error(key, f"must be a mapping of keys to values, not {given!r}")
    return document.error(key, f"{mistake_text(mistake['msg'])}, not {given!r}")


def _with_absolute_paths(config: RunConfig, folder: Path) -> RunConfig:
    def absolute(text: str) -> str:
        return str((folder / Path(text).expanduser()).resolve())

    sites = tuple(dataclasses.replace(site, path=absolute(site.path)) for site in config.sites)
    return dataclasses.replace(config, sites=sites, cache=None if config.cache is None else absolute(config.cache))


def _plain(value: Any) -> Any:
    """The inverse of ``_shaped``: mappings, lists and scalars, plugins as a user writes them."""
    if isinstance(value, PluginSettings):
        return {"name": value.name, **_plain(value.settings)} if value.settings else value.name
    if dataclasses.is_dataclass(value):
        return dict(_plain_fields(value))
    if isinstance(value, Mapping):
        return {name: _plain(inner) for name, inner in value.items()}
    if isinstance(value, (tuple, list)):
        return [_plain(inner) for inner in value]
    return value


def _plain_fields(value: Any) -> Iterator[tuple[str, Any]]:
    for each in dataclasses.fields(value):
        yield each.name, _plain(getattr(value, each.name))
