"""Which process uses the stand-in: like a GPU it cannot be used by a fork of a process that has used it."""

import os

_users: list[int] = []


def in_use() -> None:
    """The device is used. Raises RuntimeError in a fork of a process that has used it."""
    if is_in_bad_fork():
        raise RuntimeError("Cannot re-initialize the stand-in in a forked subprocess")
    if not _users:
        _users.append(os.getpid())


def is_in_bad_fork() -> bool:
    """Whether a parent of this process has used the device."""
    return bool(_users) and _users[0] != os.getpid()
