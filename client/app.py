"""Flower ClientApp: one Message in, one call on the local Site, one Message out.

Whatever goes wrong at a site is written to the site's own log; across the wire goes a code alone.
"""

import logging
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from flwr.app import Context, Message
from flwr.clientapp import ClientApp

from adamss_fl.federation.messages import Instruction, PolicyRefusal, Reply, SiteFailure, failure_code
from client import records
from client.deployed import kit_folder
from client.paths import RunFiles, run_files

if TYPE_CHECKING:
    from adamss_fl.federation.guard.site_folder import SiteFolder
    from adamss_fl.federation.site import Site


class Answerer(Protocol):
    """What this adapter needs of a Site."""

    def handle(self, instruction: Instruction) -> Reply:
        """Do what ``instruction`` says; raises SiteFailure where it is refused."""
        ...


SiteBuilder = Callable[[RunFiles, str], Answerer]
"""Makes the site of a given name from a run's files."""


def configured_site(files: RunFiles, name: str) -> Answerer:
    """Return the site ``name`` of the run's configuration, the same one each time within a process.

    Where its state folder has a policy, or ever had one, the site stands behind it.
    """
    from adamss_fl.federation.guard.guarded_site import guarded
    from adamss_fl.federation.guard.site_folder import SiteFolder

    state_dir = files.state_dir(name)
    return guarded(_configured_site(files.config, name, state_dir), SiteFolder(state_dir))


def site_name(files: RunFiles, node_config: Mapping[str, object]) -> str:
    """Return the name of the site that a simulated node stands for: the one at its ``partition-id``.

    Raises SiteFailure(``no_such_site``) where the configuration has fewer sites than there are nodes.
    """
    from adamss_fl.config import load_config

    sites = load_config(files.config).sites
    partition = node_config.get("partition-id")
    if not isinstance(partition, int) or not 0 <= partition < len(sites):
        raise SiteFailure("no_such_site")
    return sites[partition].name


@dataclass(frozen=True)
class Place:
    """Where a message is to be answered: the site's name, its private folder, and how to make the site."""

    name: str
    folder: "SiteFolder"
    build: Callable[[], Answerer]


Locate = Callable[[Mapping[str, Any], Mapping[str, Any]], Place]
"""Finds the place from Flower's run configuration and node configuration; raises where there is none."""


def client_app(
    config: str = "",
    out: str = "",
    build: SiteBuilder = configured_site,
    name_of: Callable[[RunFiles, Mapping[str, object]], str] = site_name,
) -> ClientApp:
    """Return the ClientApp of simulated nodes.

    config, out : the run's configuration file and folder; where empty, Flower's run configuration gives them.
    build, name_of : make a site, and name the site of a node.
    """
    given = {"config": config, "out": out}

    def locate(run_config: Mapping[str, Any], node_config: Mapping[str, Any]) -> Place:
        from adamss_fl.federation.guard.site_folder import SiteFolder

        files = run_files({**run_config, **{key: value for key, value in given.items() if value}})
        name = name_of(files, node_config)
        return Place(name, SiteFolder(files.state_dir(name)), lambda: build(files, name))

    return answering_app(locate)


def deployed_app(kit: Path) -> ClientApp:
    """Return the ClientApp of the site whose kit started this process; what a node says of itself does not count."""

    def locate(run_config: Mapping[str, Any], node_config: Mapping[str, Any]) -> Place:
        from client.deployed import deployed_site, own_place

        name, folder = own_place(kit)
        return Place(name, folder, lambda: deployed_site(kit, run_config))

    return answering_app(locate)


def answering_app(locate: Locate) -> ClientApp:
    """Return a ClientApp that answers each message at the place that ``locate`` finds."""
    app = ClientApp()

    def hello(message: Message, context: Context) -> Message:
        try:
            place = locate(context.run_config, context.node_config)
            place.folder.greet()
            content = records.hello_record(place.name)
        except Exception as failure:  # the boundary: no exception's text may reach the server
            content = records.refusal_record(failure_code(failure))
        return Message(content, reply_to=message)

    def answer(message: Message, context: Context) -> Message:
        folder: SiteFolder | None = None
        instruction: Instruction | None = None
        try:
            place = locate(context.run_config, context.node_config)
            folder = place.folder
            instruction = records.read_instruction(message.content)
            content = records.reply_record(place.build().handle(instruction))
        except Exception as failure:  # the boundary: no exception's text may reach the server
            _note(folder, failure, is_readable=instruction is not None)
            content = records.refusal_record(failure_code(failure), instruction)
        return Message(content, reply_to=message)

    app.query("hello")(hello)
    for register in (app.query, app.train, app.evaluate):
        register()(answer)
    return app


def _note(folder: "SiteFolder | None", failure: Exception, is_readable: bool) -> None:
    """Write the exception being handled to ``site.log`` in the site's state folder, if it is not there already.

    A message that cannot be read goes to the audit log as well. A full disk must not let the text of either leave.
    """
    if folder is None:
        return
    code = failure_code(failure)
    with suppress(OSError):
        if not is_readable:
            folder.note_unreadable(code)
    with suppress(OSError):
        if not isinstance(failure, PolicyRefusal):
            _log_exception(folder.folder, code)


def _log_exception(state_dir: Path, code: str) -> None:
    state_dir.mkdir(parents=True, exist_ok=True)
    handler = logging.FileHandler(state_dir / "site.log", encoding="utf-8")
    handler.setFormatter(logging.Formatter("%(asctime)s %(message)s"))
    logger = logging.Logger("adamss_fl.site")
    logger.addHandler(handler)
    try:
        logger.exception("refused with code %s", code)
    finally:
        handler.close()


@lru_cache(maxsize=64)
def _configured_site(config: Path, name: str, state_dir: Path) -> "Site":
    from adamss_fl.assembly import build_site
    from adamss_fl.config import load_config

    return build_site(load_config(config), name, state_dir)


_KIT = kit_folder()
app = client_app() if _KIT is None else deployed_app(_KIT)
