"""A Grid in this process, for tests: each message goes straight to a ClientApp, copied as if over a wire."""

import copy
import uuid
from collections.abc import Callable, Iterable

from flwr.app import Context, Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.proto.node_pb2 import NodeInfo
from flwr.serverapp import Grid
from flwr.supercore.run import Run
from flwr.supercore.task_identity import TaskIdentity

Meddler = Callable[[int, Message], list[Message]]
"""What the network makes of a node's reply: (node, reply) to the replies that arrive."""


class InProcessGrid(Grid):
    """Nodes 1..n, each a simulated node with its partition; ``sent`` holds every reply as it left its node."""

    def __init__(self, app: ClientApp, nodes: int, meddle: Meddler = lambda _, reply: [reply]) -> None:
        TaskIdentity.task_id, TaskIdentity.run_id, TaskIdentity.node_id = 1, 1, 1
        self.app, self.meddle = app, meddle
        self.contexts = {
            node: Context(1, node, {"partition-id": node - 1, "num-partitions": nodes}, RecordDict(), {})
            for node in range(1, nodes + 1)
        }
        self.offline: set[int] = set()
        self.sent: list[Message] = []
        self.arrived: list[Message] = []

    def set_run(self, run: Run) -> None: ...

    @property
    def run(self) -> Run:
        return Run.create_empty(run_id=1)

    def create_message(self, *_: object, **__: object) -> Message:
        raise NotImplementedError

    def send_and_receive(self, *_: object, **__: object) -> Iterable[Message]:
        raise NotImplementedError

    def get_node_ids(self) -> Iterable[int]:
        return [node for node in self.contexts if node not in self.offline]

    def get_nodes(self) -> Iterable[NodeInfo]:
        return [NodeInfo(node_id=node) for node in self.get_node_ids()]

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        ids: list[str] = []
        for message in messages:
            node = message.metadata.dst_node_id
            message.metadata.__dict__["_message_id"] = str(uuid.uuid4())
            ids.append(message.metadata.message_id)
            reply = self.app(copy.deepcopy(message), self.contexts[node])
            self.sent.append(copy.deepcopy(reply))
            self.arrived.extend(self.meddle(node, reply))
        return ids

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        wanted = set(message_ids)
        here = [message for message in self.arrived if message.metadata.reply_to_message_id in wanted]
        self.arrived = [message for message in self.arrived if message not in here]
        return here
