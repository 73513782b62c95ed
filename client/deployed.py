"""A site that was started from a kit: what a run asks for, on this hospital's patients and settings."""

import hashlib
import json
import os
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from adamss_fl.deployment.site_node import KIT_VARIABLE, read_site_settings
from adamss_fl.federation.files import write_atomically
from adamss_fl.federation.messages import SiteFailure

if TYPE_CHECKING:
    from adamss_fl.federation.guard.guarded_site import GuardedSite
    from adamss_fl.federation.guard.site_folder import SiteFolder
    from adamss_fl.federation.site import Site


def kit_folder() -> Path | None:
    """The kit that this process was started from; None in a simulation."""
    folder = os.environ.get(KIT_VARIABLE)
    return Path(folder) if folder else None


def own_place(kit: Path) -> "tuple[str, SiteFolder]":
    """The site's name and its private folder, where there must be a policy. Raises InputError for a bad kit."""
    from adamss_fl.federation.guard.site_folder import SiteFolder
    from adamss_fl.provisioning.kits import open_site_kit

    return open_site_kit(kit).site, SiteFolder(read_site_settings(kit).state, required=True)


def deployed_site(kit: Path, run_config: Mapping[str, object]) -> "Site | GuardedSite":
    """The kit's site, behind its policy, for the task in a run's configuration.

    The site's own name, folders and device take the place of whatever the task says. Raises SiteFailure(``no_task``)
    where the run brings none, and InputError where the task or the site's settings are not good.
    """
    task = run_config.get("task")
    if not isinstance(task, str) or not task:
        raise SiteFailure("no_task")
    return _deployed_site(kit, task)


@lru_cache(maxsize=4)
def _deployed_site(kit: Path, task: str) -> "Site | GuardedSite":
    from adamss_fl.assembly import build_site
    from adamss_fl.config import load_config
    from adamss_fl.federation.guard.guarded_site import guarded

    (name, folder), settings = own_place(kit), read_site_settings(kit)
    digest = hashlib.sha256(task.encode()).hexdigest()
    path = settings.state / "tasks" / f"{digest}.yaml"
    write_atomically(path, task.encode())
    own = json.dumps([{"name": name, "path": str(settings.path), "layout": settings.layout}])
    alone = "federation.min_sites=1"  # how many others must answer is the server's affair
    overrides = [f"sites={own}", alone, "cache=null", "trackers=[]", f"runtime.device={settings.device}"]
    site = build_site(load_config(path, overrides), name, settings.state)
    return guarded(site, folder)
