"""Flower's ``flower-supernode``, which answers a message before it takes the next, and looks for messages more often.

Flower takes one message, waits for any reply, and sends what there is. Where a client process was killed there may be a
reply too many: it is then sent in place of the reply to the message just taken, which stays behind until the next
message comes, and so does every later one: a site that is absent from every round for good. Here what is sent goes on
until the reply to the very message is among it.
"""

import importlib
import os
import time
from functools import partial
from pathlib import Path
from typing import Any

from adamss_fl.cli.flower_objects import check_object
from adamss_fl.deployment.lean_requests import RUNTIME, WholeRequests
from adamss_fl.deployment.long_polls import Bell, LongPolls
from adamss_fl.deployment.object_files import FOLDER, LOOKS, ObjectFiles
from adamss_fl.deployment.site_node import KIT_VARIABLE, read_site_settings, shared_secret

_HASTE = 6
"""Pauses are so many times shorter: 0.5 s between looks for messages of the server (Flower: 3), 0.08 for replies."""


def main() -> None:
    """Run the SuperNode that the command line describes."""
    from flwr.supernode.cli.flower_supernode import flower_supernode

    internal: Any = importlib.import_module("flwr.supernode.start_client_internal")
    tasks = Bell()
    _answer_what_was_taken(internal, tasks)
    internal.time = _Impatient()
    internal.pull_objects = partial(internal.pull_objects, **LOOKS)  # Flower: 1, 2, 4 and 8 s
    _serve_lean_requests(tasks)
    _keep_objects_in_files(read_site_settings(Path(os.environ[KIT_VARIABLE])).state)
    flower_supernode()


def _answer_what_was_taken(internal: Any, tasks: Bell) -> None:
    pull, push = internal._pull_and_store_message, internal._push_messages
    taken: set[str] = set()

    def pull_noted(state: Any, **others: Any) -> Any:
        taken.clear()
        run = pull(state=Watched(state, taken, tasks), **others)
        if run is None:  # nothing came, or what came is of a run that is over: Flower keeps it and answers it never
            taken.clear()
        return run

    def push_until_answered(state: Any, **others: Any) -> None:
        while taken:
            push(state=Watched(state, taken, tasks), **others)

    internal._pull_and_store_message, internal._push_messages = pull_noted, push_until_answered


def _serve_lean_requests(tasks: Bell) -> None:
    served: Any = importlib.import_module("flwr.supernode.main")
    create_app = served.create_app

    def create_lean_app(**settings: Any) -> Any:
        app = create_app(**settings)
        app.add_middleware(LongPolls, held={RUNTIME + "acquire-task": tasks}, rings={}, announced={})
        app.add_middleware(WholeRequests)
        return app

    served.create_app = create_lean_app


def _keep_objects_in_files(state: Path) -> None:
    stores: Any = importlib.import_module("flwr.supercore.object_store.object_store_factory")
    in_memory, word = stores.InMemoryObjectStore, shared_secret(state).read_bytes()
    stores.InMemoryObjectStore = lambda: ObjectFiles(in_memory(verify=False), state / FOLDER, check_object, word)


class Watched:
    """A SuperNode's state that notes which messages were taken and have no reply yet, and rings for each new task.

    Flower stores a message when it has taken it, and deletes it with its reply, whether that could be sent or not.
    """

    def __init__(self, state: Any, taken: set[str], tasks: Bell) -> None:
        self._state, self._taken, self._tasks = state, taken, tasks

    def __getattr__(self, name: str) -> Any:
        return getattr(self._state, name)

    def create_task(self, **settings: Any) -> Any:
        """Create, as the state does, and ring."""
        task = self._state.create_task(**settings)
        self._tasks.ring()
        return task

    def store_message(self, message: Any) -> Any:
        """Store, as the state does, and note a message that is no reply."""
        if not message.metadata.reply_to_message_id:
            self._taken.add(message.metadata.message_id)
        return self._state.store_message(message)

    def delete_messages(self, *, message_ids: Any) -> Any:
        """Delete, as the state does, and note it."""
        self._taken.difference_update(message_ids)
        return self._state.delete_messages(message_ids=message_ids)


class _Impatient:
    """The module ``time`` with shorter sleeps."""

    def __getattr__(self, name: str) -> Any:
        return getattr(time, name)

    def sleep(self, seconds: float) -> None:
        """Sleep for a part of the time."""
        time.sleep(seconds / _HASTE)


if __name__ == "__main__":
    main()
