"""Flower's Control API: registering sites, and starting, watching and stopping Flower runs."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from adamss_fl.cli.flower_app import app_folder
from adamss_fl.deployment.gate import HEADER
from adamss_fl.errors import AdamssError
from adamss_fl.federation.guard.approvals import bundle_digest

if TYPE_CHECKING:
    from flwr.supercore.control import ControlHttpClient

_ACTIVE = ("pending", "starting", "running")


class Unreachable(AdamssError):
    """The SuperLink does not answer."""


def build_bundle() -> bytes:
    """This version's Flower app bundle; the same bytes on every machine with the same version."""
    from flwr.cli.build import build_fab_from_disk

    bundle: bytes = build_fab_from_disk(app_folder())
    return bundle


class _Credentials:
    """Puts the coordinator's secret on every request."""

    def __init__(self, secret: bytes | None) -> None:
        self._secret = secret

    def intercept(self, context: Any, call_next: Any) -> Any:
        """Flower's hook around a request."""
        if self._secret is not None:
            context.request.headers[HEADER] = self._secret.hex()
        return call_next(context)


class FlowerControl:
    """One SuperLink, asked over TLS.

    address : HOST:PORT; ca_file : whom its certificate must come from; secret : the coordinator's, None for none.
    """

    def __init__(self, address: str, ca_file: Path, secret: bytes | None) -> None:
        self._address, self._ca_file, self._secret = address, ca_file, secret
        self._client: ControlHttpClient | None = None

    def register(self, sites: Mapping[str, bytes]) -> None:
        """Make the registered keys those of ``sites`` (name -> PEM public key), and no others, such as revoked ones.

        Raises Unreachable where the SuperLink does not answer.
        """
        from flwr.proto.control_pb2 import ListNodesRequest, RegisterNodeRequest, UnregisterNodeRequest

        known = self._call("ListNodes", ListNodesRequest()).nodes_info
        registered = {bytes(node.public_key): node for node in known if node.status != "unregistered"}
        for key, node in registered.items():
            if sites.get(node.name) != key:
                self._call("UnregisterNode", UnregisterNodeRequest(node_id=node.node_id))
        for name, key in sites.items():
            if key not in registered or registered[key].name != name:
                self._call("RegisterNode", RegisterNodeRequest(public_key=key, name=name))

    def is_gated(self) -> bool:
        """Whether the SuperLink refuses whoever does not have the coordinator's secret."""
        stranger = FlowerControl(self._address, self._ca_file, None)
        try:
            stranger.nodes()
        except Unreachable:
            raise
        except AdamssError:
            return True
        finally:
            stranger.close()
        return False

    def nodes(self) -> list[dict[str, Any]]:
        """Every registered site: ``name``, ``status``."""
        from flwr.proto.control_pb2 import ListNodesRequest

        found = self._call("ListNodes", ListNodesRequest()).nodes_info
        return [{"name": node.name, "status": node.status} for node in found if node.status != "unregistered"]

    def start(self, task: str, name: str) -> int:
        """Start a Flower run of a task (YAML) under a run's name; returns Flower's number for it."""
        from flwr.common.serde import fab_to_proto, user_config_to_proto
        from flwr.proto.control_pb2 import StartRunRequest
        from flwr.supercore.fab import Fab

        bundle = build_bundle()
        request = StartRunRequest(
            fab=fab_to_proto(Fab(bundle_digest(bundle), bundle, {})),
            override_config=user_config_to_proto({"task": task, "run": name}),
        )
        return int(self._call("StartRun", request).run_id)

    def active(self, flower_run: int) -> bool:
        """Whether a Flower run is going on; False for one that the SuperLink no longer knows."""
        from flwr.proto.control_pb2 import ListRunsRequest

        found = self._call("ListRuns", ListRunsRequest()).run_dict
        return flower_run in found and found[flower_run].status.status in _ACTIVE

    def stop(self, flower_run: int) -> None:
        """End a Flower run."""
        from flwr.proto.control_pb2 import StopRunRequest

        self._call("StopRun", StopRunRequest(run_id=flower_run))

    def close(self) -> None:
        """Let go of the connection."""
        if self._client is not None:
            self._client.close()
            self._client = None

    def _call(self, name: str, request: Any) -> Any:
        import httpx
        from flwr.supercore.control import ControlHttpClient
        from flwr.supercore.interceptors import RuntimeVersionHttpInterceptor

        try:
            if self._client is None:
                self._client = ControlHttpClient.from_server_address(
                    server_address=self._address,
                    insecure=False,
                    root_certificates=self._ca_file.read_bytes(),
                    interceptors=[RuntimeVersionHttpInterceptor("flwr CLI"), _Credentials(self._secret)],
                )
            return getattr(self._client, name)(request)
        except httpx.HTTPStatusError as error:
            raise AdamssError(f"{self._address}: the SuperLink refuses {name}: {error.response.text}") from error
        except (httpx.HTTPError, OSError) as error:
            self.close()
            raise Unreachable(f"{self._address}: the SuperLink does not answer ({type(error).__name__})") from error
