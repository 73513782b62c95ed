"""Runs over sites in this process, for tests of the federation."""

from pathlib import Path

import numpy as np

from adamss_fl.federation.finished_run import final_weights
from adamss_fl.federation.local_sites import LocalSites
from adamss_fl.federation.messages import Weights
from adamss_fl.federation.run import run_federation
from adamss_fl.federation.site import Site
from adamss_fl.federation.site_data import SiteData
from adamss_fl.federation.task import Task


def site(name: str, data: SiteData, task: Task, folder: Path) -> Site:
    return Site(name, lambda: data, task, folder / "sites" / name)


def train(task: Task, data: dict[str, SiteData], out: Path) -> Weights:
    sites = LocalSites([site(name, own, task, out) for name, own in data.items()])
    run_federation(task, sites, out)
    return final_weights(out)[0]


def assert_equal_bits(first: Weights, second: Weights) -> None:
    assert first.keys() == second.keys()
    assert [name for name in first if not np.array_equal(first[name], second[name])] == []
