"""Which process uses the stand-in: like a GPU it cannot be used by a fork of a process that has used it."""

import os
from pathlib import Path

VARIABLE = "STAND_IN"
"""Names, for child processes, a folder in which each that uses the device leaves its command line."""

_users: list[int] = []


def in_use() -> None:
    """The device is used. Raises RuntimeError in a fork of a process that has used it."""
    if not _users:
        _users.append(os.getpid())
        _leave_command_line()
    elif is_in_bad_fork():
        raise RuntimeError("Cannot re-initialize the stand-in in a forked subprocess")


def is_in_bad_fork() -> bool:
    """Whether a parent of this process has used the device."""
    return bool(_users) and _users[0] != os.getpid()


def _leave_command_line() -> None:
    folder = os.environ.get(VARIABLE)
    if folder:
        line = Path("/proc/self/cmdline").read_bytes().replace(b"\0", b" ")
        (Path(folder) / str(os.getpid())).write_bytes(line)
