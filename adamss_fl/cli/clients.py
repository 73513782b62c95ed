"""The parent of a site's client processes: has everything imported, and forks one of them for each message.

    python -m adamss_fl.cli.clients FOLDER

Flower starts a process for every message, which spends two to three seconds on importing PyTorch and Flower before it
does anything. Here they are spent once. A message still has a process of its own that ends with it, and its bundle is
checked and loaded there. Only the site's own account can reach the socket in FOLDER (``adamss_fl.deployment.knock``).
"""

import gc
import importlib
import json
import logging
import os
import signal
import socket
import sys
import threading
import traceback
from contextlib import suppress
from pathlib import Path
from typing import Any

from adamss_fl.cli import door
from adamss_fl.deployment.knock import SOCKET

_IMPORTED = (
    "flwr.supernode.cli.flwr_clientapp",
    "adamss_fl.assembly",
    "adamss_fl.deployment.site_node",
    "adamss_fl.federation.guard.guarded_site",
    "adamss_fl.provisioning.kits",
    "adamss_fl.training",
    "torch._dynamo",  # PyTorch imports it when the first optimizer is made, for a second or more
)
"""What answering a message needs; nothing of it starts a thread of Python's or opens a connection."""

_KILLED = 137
_MOST_BYTES = 2**20


def main() -> None:
    """Import, listen in the folder of the command line, and fork for each that knocks."""
    folder = Path(sys.argv[1])
    for name in _IMPORTED:
        importlib.import_module(name)
    gc.freeze()  # what was imported stays, and stays in memory that all processes share
    with _listening(folder) as listener:
        signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for the children here: whoever knocked is told
        while True:
            line, _ = listener.accept()
            if os.fork() == 0:
                listener.close()
                break
            line.close()
    _answer(line)


def _listening(folder: Path) -> socket.socket:
    os.chdir(folder)
    Path(SOCKET).unlink(missing_ok=True)
    listener = socket.socket(socket.AF_UNIX)
    before = os.umask(0o177)
    try:
        listener.bind(SOCKET)
    finally:
        os.umask(before)
    listener.listen(16)
    return listener


def _answer(line: socket.socket) -> None:
    """In a forked process: take the place of whoever knocked, answer the message, and say how it ended."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    request = _request(line)
    os.chdir(request["cwd"])
    os.environ.clear()
    os.environ.update(request["environment"])
    sys.argv = ["flwr-clientapp", *request["arguments"]]
    threading.Thread(target=_end_with, args=(line,), daemon=True).start()
    code = 1
    try:
        door.main()
        code = 0
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
        if isinstance(end.code, str):
            print(end.code, file=sys.stderr)
    except Exception:  # the end of a process, which does not come to Python's own
        traceback.print_exc()
    finally:
        logging.shutdown()
        for stream in (sys.stdout, sys.stderr):
            with suppress(OSError):
                stream.flush()
        with suppress(OSError):  # last: who knocked goes when it is told, and this process with it
            line.sendall(str(code).encode())
        os._exit(code)  # to take all that was imported apart costs a fifth of a second


def _request(line: socket.socket) -> dict[str, Any]:
    """What was asked for; standard input, output and error become those that came with it."""
    content, handles, _, _ = socket.recv_fds(line, _MOST_BYTES, 3)
    while not content.endswith(b"\n") and (more := line.recv(_MOST_BYTES)):
        content += more
    for own, given in enumerate(handles):
        os.dup2(given, own)
        os.close(given)
    found: dict[str, Any] = json.loads(content)
    return found


def _end_with(line: socket.socket) -> None:
    """End this process at once when whoever knocked is gone."""
    with suppress(OSError):
        line.recv(1)
    os._exit(_KILLED)


if __name__ == "__main__":
    main()
