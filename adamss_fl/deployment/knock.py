"""What SuperExec starts as ``flwr-clientapp`` at a site: passes its arguments to the parent of clients, and waits.

    knock.py FOLDER ARGUMENTS...

FOLDER holds the socket of ``adamss_fl.cli.clients``. Where nobody listens there, because that process is not ready or
was killed, this one becomes ``adamss_fl.cli.door`` itself: the same, some seconds slower. It needs a part of the
standard library alone, since it is started for every message. If it dies, so does the process that answers for it.
"""

import json
import os
import socket
import sys

SOCKET = "clients.socket"


def main() -> int:
    """Return the exit status of the process that answered; 1 where it was killed."""
    folder, arguments, cwd = sys.argv[1], sys.argv[2:], os.getcwd()
    request = {"arguments": arguments, "cwd": cwd, "environment": dict(os.environ)}
    with socket.socket(socket.AF_UNIX) as line:
        try:
            os.chdir(folder)  # a socket's path may have 107 bytes, which a state folder's soon has
            line.connect(SOCKET)
        except OSError:
            os.chdir(cwd)
            os.execv(sys.executable, [sys.executable, "-m", "adamss_fl.cli.door", *arguments])
        socket.send_fds(line, [json.dumps(request).encode() + b"\n"], [0, 1, 2])
        told = b""
        while more := line.recv(16):  # until the other end is gone
            told += more
    return int(told or 1)


if __name__ == "__main__":
    sys.exit(main())
