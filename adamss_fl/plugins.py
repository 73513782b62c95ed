"""The extension points: entry-point groups ``adamss_fl.<point>``, through which the built-in parts are registered too.

A plugin is a callable, usually a frozen dataclass, whose parameters are its settings and whose first docstring line is
its description. A name may carry one argument after a colon: ``flower:FedAdam`` calls the plugin ``flower`` with
``"FedAdam"`` as its first positional argument, followed by the settings as keywords.
"""

import difflib
import inspect
import json
import typing
from collections.abc import Callable, Iterable, Mapping
from dataclasses import MISSING, dataclass, field
from importlib.metadata import EntryPoint, entry_points
from typing import Any

from adamss_fl.errors import InputError

POINTS: tuple[str, ...] = ("cohort_layout", "aggregator", "tracker", "augmentation", "feature_extractor")


@dataclass(frozen=True)
class PluginInfo:
    """What a user wants to know of a plugin before naming it in a configuration.

    settings : per setting its type and default as text, for example ``{"momentum": "float = 0.9"}``; a setting
        without ``=`` must be given.
    """

    point: str
    name: str
    description: str
    distribution: str
    settings: Mapping[str, str] = field(default_factory=dict)


def create(point: str, name: str, settings: Mapping[str, Any] | None = None, where: str = "") -> Any:
    """Build the plugin ``name`` of ``point`` from its settings, as a configuration gives them.

    where : the place of the name in the user's input, for messages, for example ``federation.aggregator``.
    Raises InputError where the plugin is unknown or cannot be imported, or where a setting is unknown, missing,
    of the wrong type or refused by the plugin.
    """
    where = f"{where}: " if where else ""
    base, colon, argument = name.partition(":")
    factory = _load(point, base, where)
    given = dict(settings or {})
    parameters, takes_any = _parameters(factory)
    positional: list[Any] = []
    first = next((p for p in parameters.values() if p.kind is not inspect.Parameter.KEYWORD_ONLY), None)
    if colon:
        if first is None or not argument:
            raise InputError(
                f"{where}{point} '{base}' takes a name after the colon only where it has one; write '{base}'"
            )
        positional = [_typed(factory, first.name, argument, f"{where}{name}")]
        parameters.pop(first.name)
    for key in given:
        if key not in parameters and not takes_any:
            raise InputError(f"{where}{point} '{name}' has no setting '{key}'; {suggest(key, parameters, 'settings')}")
    for parameter in parameters.values():
        if parameter.default is inspect.Parameter.empty and parameter.name not in given:
            by_colon = (
                f"; write it as '{name}:<{parameter.name}>'"
                if parameter is first and _hints(factory).get(first.name) is str
                else ""
            )
            raise InputError(f"{where}{point} '{name}' needs '{parameter.name}'{by_colon}")
    keywords = {key: _typed(factory, key, value, f"{where}{name}.{key}") for key, value in given.items()}
    try:
        return factory(*positional, **keywords)
    except InputError as error:
        raise InputError(f"{where}{error}") from error
    except (ValueError, ImportError) as error:
        raise InputError(f"{where}{point} '{name}': {error}") from error


def installed(point: str) -> list[PluginInfo]:
    """Every plugin registered at ``point``, by name; raises InputError where there is no such point."""
    return [_info(point, entry) for _, entry in sorted(_registered(point).items())]


def suggest(word: str, known: Iterable[str], noun: str) -> str:
    """The end of an 'unknown name' message: ``did you mean 'x'?`` where one is close, else all the known names."""
    names = sorted(known)
    close = difflib.get_close_matches(word, names, n=1)
    return f"did you mean '{close[0]}'?" if close else f"known {noun}: {', '.join(names) or 'none'}"


def mistake_text(message: str) -> str:
    """A validator's message in our words: ``Input should be a valid integer`` becomes ``must be a valid integer``."""
    return (message[0].lower() + message[1:]).replace("input should be", "must be").replace("tuple should", "must")


def _registered(point: str) -> dict[str, EntryPoint]:
    if point not in POINTS:
        raise InputError(f"unknown extension point '{point}'; {suggest(point, POINTS, 'points')}")
    found: dict[str, EntryPoint] = {}
    for entry in entry_points(group=f"adamss_fl.{point}"):
        other = found.setdefault(entry.name, entry)
        if other.value != entry.value:
            raise InputError(
                f"the {point} '{entry.name}' is registered twice, by {_distribution(other)} and by "
                f"{_distribution(entry)}; uninstall one"
            )
    return found


def _load(point: str, name: str, where: str) -> Callable[..., Any]:
    registered = _registered(point)
    if name not in registered:
        raise InputError(f"{where}unknown {point} '{name}'; {suggest(name, registered, f'{point} plugins')}")
    entry = registered[name]
    try:
        loaded = entry.load()
    except (ImportError, AttributeError) as error:
        raise InputError(f"{where}the {point} '{name}' of {_distribution(entry)} does not load: {error}") from error
    if not callable(loaded):
        raise InputError(f"{where}the {point} '{name}' of {_distribution(entry)} is not callable")
    return typing.cast(Callable[..., Any], loaded)


def _parameters(factory: Callable[..., Any]) -> tuple[dict[str, inspect.Parameter], bool]:
    """The named parameters in order, and whether any further keyword is taken."""
    every = inspect.signature(factory).parameters.values()
    variable = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    named = {parameter.name: parameter for parameter in every if parameter.kind not in variable}
    return named, any(parameter.kind is inspect.Parameter.VAR_KEYWORD for parameter in every)


def _hints(factory: Callable[..., Any]) -> dict[str, Any]:
    return typing.get_type_hints(factory.__init__ if inspect.isclass(factory) else factory)


def _typed(factory: Callable[..., Any], key: str, value: Any, where: str) -> Any:
    """``value`` as the type that the parameter declares; a list will do for a tuple and an integer for a float."""
    hint = _hints(factory).get(key, Any)
    from pydantic import ConfigDict, TypeAdapter, ValidationError
    from pydantic.errors import PydanticUserError

    try:
        adapter = TypeAdapter[Any](hint, config=ConfigDict(strict=True, arbitrary_types_allowed=True))
    except PydanticUserError:  # dataclasses and typed dicts carry their own configuration
        adapter = TypeAdapter[Any](hint)
    try:
        # The strict rules of JSON are the ones for YAML: no "3" for 3, but a list for a tuple and 1 for 1.0.
        return adapter.validate_json(json.dumps(value), strict=True)
    except ValidationError as error:
        first = error.errors()[0]
        raise InputError(f"{where}: {mistake_text(first['msg'])}, not {value!r}") from error
    except TypeError:  # not a JSON value, so it comes from code and not from a configuration
        return value


def _info(point: str, entry: EntryPoint) -> PluginInfo:
    try:
        factory = _load(point, entry.name, "")
    except InputError as error:  # one broken plugin must not hide the others
        return PluginInfo(point, entry.name, str(error), _distribution(entry))
    parameters, takes_any = _parameters(factory)
    hints = _hints(factory)
    settings = {
        parameter.name: _setting_text(parameter, hints.get(parameter.name, Any)) for parameter in parameters.values()
    }
    if takes_any:
        settings["..."] = "passed on"
    description = (inspect.getdoc(factory) or "").split("\n", 1)[0].strip()
    return PluginInfo(point, entry.name, description, _distribution(entry), settings)


def _setting_text(parameter: inspect.Parameter, hint: Any) -> str:
    text = hint.__name__ if inspect.isclass(hint) and not typing.get_args(hint) else str(hint).replace("typing.", "")
    if parameter.default in (inspect.Parameter.empty, MISSING):
        return text
    default = "..." if "factory" in repr(parameter.default) else repr(parameter.default)
    return f"{text} = {default}"


def _distribution(entry: EntryPoint) -> str:
    return f"{entry.dist.name} {entry.dist.version}" if entry.dist is not None else "an unnamed distribution"
