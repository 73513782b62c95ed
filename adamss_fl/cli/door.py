"""A site's door: Flower's ``flwr-clientapp``, which unpacks no application bundle that the hospital has not approved.

SuperExec finds this in place of Flower's own command (see ``adamss_fl.deployment.site_node``). It is Flower's process
with functions of ours in front: the bundle's hash is checked before a byte of it is unpacked, and what crosses the wire
when something fails is a code, never an exception's text. It is started while its message still comes in, and looks for
the parts of it more often than Flower's own, which waits for 1, 2, 4 and 8 seconds. What is large passes between it and
the SuperNode in files (see ``adamss_fl.deployment.object_files``).
"""

import importlib
import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from adamss_fl.errors import AdamssError

if TYPE_CHECKING:
    from adamss_fl.federation.guard.site_folder import SiteFolder

_REFUSAL = re.compile(r"<class '[\w.]+\.BundleRefused'>:<'([a-z_]{1,40})'>")
"""What Flower makes of a BundleRefused."""


class BundleRefused(AdamssError):
    """The application bundle is not approved at this site."""


def main() -> None:
    """Answer one message of the SuperNode whose address and token the command line gives."""
    from flwr.supernode.cli.flwr_clientapp import flwr_clientapp

    from adamss_fl.deployment.site_node import KIT_VARIABLE, read_site_settings
    from adamss_fl.federation.guard.site_folder import SiteFolder

    folder = SiteFolder(read_site_settings(Path(os.environ[KIT_VARIABLE])).state, required=True)
    process: Any = importlib.import_module("flwr.supernode.runtime.run_clientapp")
    _unpack_approved(process, folder)
    _tell_codes(process)
    _pass_objects_in_files(process, folder.folder)
    flwr_clientapp()


def _unpack_approved(process: Any, folder: "SiteFolder") -> None:
    from adamss_fl.federation.guard.approvals import check_bundle

    install = process.install_from_fab

    def install_approved(content: bytes, *arguments: Any, **named: Any) -> Any:
        decision = check_bundle(content, folder)
        if not decision.allowed:
            raise BundleRefused(decision.code)
        return install(content, *arguments, **named)

    process.install_from_fab = install_approved


def _tell_codes(process: Any) -> None:
    error, push = process.Error, process.push_task_output

    def coded(code: int, reason: str | None = None) -> Any:
        refusal = _REFUSAL.fullmatch(reason or "")
        return error(code=code, reason=refusal[1] if refusal else "site_error")

    def push_coded(client: Any, context: Any, sub_status: str, details: str) -> None:
        push(client, context, sub_status, "site_error" if details else "")

    process.Error, process.push_task_output = coded, push_coded


def _pass_objects_in_files(process: Any, state: Path) -> None:
    from adamss_fl.deployment.object_files import FOLDER, LOOKS, from_files, into_files
    from adamss_fl.deployment.site_node import shared_secret

    inflate, pusher = process.pull_and_inflate_object_from_tree, process.make_push_object_fn_protobuf
    objects, word = state / FOLDER, shared_secret(state).read_bytes()

    def inflate_from_files(tree: Any, pull: Any, confirm: Any, **named: Any) -> Any:
        return inflate(tree, from_files(objects, pull), confirm, **named, **LOOKS)

    def pusher_into_files(*arguments: Any, **named: Any) -> Any:
        return into_files(objects, pusher(*arguments, **named), word)

    process.pull_and_inflate_object_from_tree = inflate_from_files
    process.make_push_object_fn_protobuf = pusher_into_files


if __name__ == "__main__":
    main()
