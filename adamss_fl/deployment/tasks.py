"""What a coordinator sends to sites: a configuration with the sites' names and nothing of anyone's folders."""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from adamss_fl import yaml_source
from adamss_fl.config import dump_config, load_config
from adamss_fl.errors import InputError

ELSEWHERE = "/at-the-site"
"""What stands for a site's folder in a task; each site puts its own in its place."""


def task_for_sites(config: Path, overrides: Sequence[str], consortium: Sequence[str]) -> str:
    """The configuration as the task of a run, YAML.

    consortium : names of all sites; the configuration may name some of them under ``sites``, else all take part.
    Raises InputError for a bad configuration or a site that the consortium does not have.
    """
    document = yaml_source.read(config, overrides)
    named = [
        entry["name"]
        for entry in document.data.get("sites") or []
        if isinstance(entry, dict) and isinstance(entry.get("name"), str)
    ]
    for name in named:
        if name not in consortium:
            raise InputError(
                f"{document.where(('sites',))}: the consortium has no site {name!r}; it has {', '.join(consortium)}"
            )
    sites = json.dumps([{"name": name, "path": ELSEWHERE} for name in named or consortium])
    found = load_config(config, [*overrides, f"sites={sites}"])
    return dump_config(replace(found, cache=None, trackers=()))
