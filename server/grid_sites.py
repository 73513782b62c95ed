"""The sites of a federation over Flower's Grid."""

import logging
import math
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import zip_longest
from pathlib import Path

from flwr.app import Message, RecordDict
from flwr.app.constants import DEFAULT_TTL
from flwr.serverapp import Grid

from adamss_fl.errors import AdamssError
from adamss_fl.federation.messages import Absence, Collected, Instruction, Reply
from adamss_fl.federation.spool import put_on_disk
from adamss_fl.federation.update import check_envelope
from client import records

log = logging.getLogger("adamss_fl.server")

_JOIN_POLL_SECONDS = 0.2

_CLIENT_APP_RAISED, _CLIENT_APP_CRASHED = 2, 8


def sleep_in_proportion(waited: float, left: float) -> None:
    """Sleep for a thirtieth of the seconds ``waited`` since the question or the last reply, 0.1 s to 2 s.

    A look for replies asks once for each site, and where sites train for minutes a reply may wait a second. It is no
    longer than what is ``left`` until the deadline.
    """
    time.sleep(min(max(waited / 30, 0.1), 2.0, left))


@dataclass(frozen=True)
class _Asked:
    site: str
    node: int


class GridSites:
    """Every node of a Flower run as one site.

    In a simulation a node gives its site's name once, when it is first met; from then on that name is the node's,
    whatever its replies say. In a deployed federation a node is the site under whose name its key is registered, and
    never what it says of itself; sites may come and go. Each broadcast sends one message a node, and takes the replies
    one by one until all are in or the deadline has passed. A reply counts only if it answers exactly this instruction
    (kind, run, round, attempt).

    grid : Flower's Grid of the run.
    expected : names of the sites that must be there, each exactly once.
    join_seconds : how long to wait for the nodes to connect and to give their names.
    keys : each site's public key (PEM) in a deployed federation; None in a simulation.
    quorum : how many sites must have connected by then in a deployed federation.
    spool : folder for the weights in replies while a round is collected; None keeps them in memory.
    pause : waits between two looks for replies, given the seconds since the question or the last reply, and those left
        until the deadline.

    Raises AdamssError where the nodes are not the expected sites, or too few of them.
    """

    def __init__(
        self,
        grid: Grid,
        expected: Sequence[str],
        join_seconds: float = 60.0,
        keys: Mapping[str, bytes] | None = None,
        quorum: int = 1,
        spool: Path | None = None,
        pause: Callable[[float, float], None] = sleep_in_proportion,
    ) -> None:
        self._grid = grid
        self._pause = pause
        self._spool = spool
        self._late: dict[str, _Asked] = {}
        self._expected = tuple(sorted(expected))
        self._keys = keys
        self._meeting = False
        self._nodes: dict[str, int] = {}
        if keys is None:
            self._nodes = self._meet(self._expected, join_seconds)
        else:
            self._await_registered(keys, join_seconds, quorum)

    @property
    def names(self) -> tuple[str, ...]:
        """Names of all sites, sorted."""
        return self._expected

    def broadcast(self, instruction: Instruction, deadline_seconds: float | None = None) -> Collected:
        """Send ``instruction`` to every site; collect replies until all are in or the deadline (0: none) is over."""
        deadline = deadline_seconds or None
        started = time.monotonic()
        message_type = records.MESSAGE_TYPES[instruction.kind]
        group = f"{instruction.kind}-{instruction.round}.{instruction.attempt}"
        asked, absences = self._send(records.instruction_record(instruction), message_type, group, deadline)
        replies: dict[str, Reply] = {}
        for site, message in self._receive(asked, started, deadline):
            outcome = _judge(site, message, instruction)
            del message  # one whole reply is in memory at a time
            if isinstance(outcome, Reply):
                if self._spool is not None and outcome.weights is not None:
                    outcome = replace(outcome, weights=put_on_disk(outcome.weights, self._spool))
                replies[site] = outcome
            else:
                absences.append(outcome)
        absences.extend(Absence(question.site, "deadline") for question in asked.values())
        self._late.update(asked)
        return Collected(
            replies=tuple(replies[site] for site in sorted(replies)),
            absences=tuple(sorted(absences, key=lambda absence: absence.site)),
        )

    def _send(
        self, content: RecordDict, message_type: str, group: str, deadline: float | None
    ) -> tuple[dict[str, _Asked], list[Absence]]:
        """Push a message to every site; return what was asked by message id, and the sites that cannot be reached."""
        asked: dict[str, _Asked] = {}
        ttl = max(float(DEFAULT_TTL), 2 * deadline if deadline else 0.0)
        if self._keys is not None:
            self._nodes = self._registered_nodes(self._keys)
        connected = set(self._grid.get_node_ids())
        sites = list(self._sendable())
        reached = [site for site in sites if self._nodes.get(site) in connected]
        absences = [Absence(site, "unreachable") for site in sites if site not in reached]
        messages = [Message(content, self._nodes[site], message_type, group_id=group, ttl=ttl) for site in reached]
        # All together: Flower sends what they have in common, which is the model, once.
        pushed = list(self._grid.push_messages(messages)) if messages else []
        for site, message_id in zip_longest(reached, pushed):
            if message_id:
                asked[message_id] = _Asked(site, self._nodes[site])
            else:
                absences.append(Absence(site, "unreachable"))
        return asked, absences

    def _sendable(self) -> Sequence[str]:
        """Whom a message is for: the sites, or every node while their names are not known yet."""
        return self._expected if self._keys is not None or not self._meeting else sorted(self._nodes)

    def _receive(
        self, asked: dict[str, _Asked], started: float, deadline: float | None
    ) -> Iterable[tuple[str, Message]]:
        """Yield (site, reply) as they come, taking each out of ``asked``, until none is left or time is up.

        They are fetched one by one: Flower would hold all that wait at once, and each of them is a model.
        """
        last = time.monotonic()
        while asked:
            for message in self._waiting([*asked, *self._late]):
                last = time.monotonic()
                answered = message.metadata.reply_to_message_id
                if (question := asked.pop(answered, None)) is not None:
                    yield question.site, message
                elif (question := self._late.pop(answered, None)) is not None:
                    log.warning("%s: a reply that came after its deadline is left out", question.site)
                else:
                    log.warning("a second reply to one message is left out")
            now = time.monotonic()
            left = math.inf if deadline is None else started + deadline - now
            if not asked or left <= 0:
                return
            self._pause(now - last, left)

    def _waiting(self, asked: Sequence[str]) -> Iterable[Message]:
        """Yield the replies to the messages ``asked`` that have come, fetching each when it is its turn."""
        for message_id in asked:
            yield from self._grid.pull_messages([message_id])

    def _registered_nodes(self, keys: Mapping[str, bytes]) -> dict[str, int]:
        """The nodes that are connected under an expected site's name with that site's own key."""
        return {
            info.name: info.node_id
            for info in self._grid.get_nodes()
            if info.name in self._expected and bytes(info.public_key) == keys.get(info.name)
        }

    def _await_registered(self, keys: Mapping[str, bytes], join_seconds: float, quorum: int) -> None:
        """Wait for every expected site to connect; raise AdamssError where fewer than ``quorum`` have by then."""
        started = time.monotonic()
        self._nodes = self._registered_nodes(keys)
        while len(self._nodes) < len(self._expected) and time.monotonic() - started < join_seconds:
            time.sleep(_JOIN_POLL_SECONDS)
            self._nodes = self._registered_nodes(keys)
        if len(self._nodes) < quorum:
            missing = ", ".join(name for name in self._expected if name not in self._nodes)
            raise AdamssError(f"{len(self._nodes)} of the {quorum} sites needed are connected; missing: {missing}")

    def _meet(self, expected: Sequence[str], join_seconds: float) -> dict[str, int]:
        """Wait for as many nodes as there are expected sites, and ask each for its site's name."""
        started = time.monotonic()
        nodes = {info.node_id: info.name for info in self._grid.get_nodes()}
        while len(nodes) < len(expected) and time.monotonic() - started < join_seconds:
            time.sleep(_JOIN_POLL_SECONDS)
            nodes = {info.node_id: info.name for info in self._grid.get_nodes()}
        if len(nodes) != len(expected):
            raise AdamssError(
                f"the federation has {len(nodes)} nodes for {len(expected)} sites ({', '.join(expected)}); "
                f"give it as many (in Flower's simulation: --federation-config num-supernodes={len(expected)})"
            )
        self._nodes, self._meeting = {str(node): node for node in nodes}, True
        asked, absences = self._send(records.hello_record(), records.HELLO, "hello", join_seconds)
        self._meeting = False
        met: dict[str, int] = {}
        silent = ["unreachable"] * len(absences)
        for key, message in self._receive(asked, time.monotonic(), max(join_seconds, 1.0)):
            given = nodes[int(key)] or _given_name(message)
            if given in met:
                raise AdamssError(f"two nodes give the site name {given}; each site may join once")
            if given in expected:
                met[given] = int(key)
            else:
                silent.append(_why_nameless(message))
        if sorted(met) != list(expected):
            missing = ", ".join(name for name in expected if name not in met)
            causes = ", ".join(sorted({*silent, *(["deadline"] if asked else [])}))
            raise AdamssError(f"no node answers for the sites {missing} ({causes})")
        return met


def _why_nameless(message: Message) -> str:
    """Return why a node gave no expected name, as a code."""
    if message.has_error():
        return "site_error"
    try:
        answer = records.read_answer(message.content)
    except records.MalformedRecord:
        return "another name"
    return answer.code if isinstance(answer, records.Refusal) else "another name"


def _given_name(message: Message) -> str:
    """Return the site name in the answer to a hello, empty where there is none."""
    try:
        return records.read_hello(message.content) if message.has_content() else ""
    except records.MalformedRecord:
        return ""


def _judge(site: str, message: Message, instruction: Instruction) -> Reply | Absence:
    """Return the reply in ``message`` if it answers ``instruction`` for ``site``, else why it does not count."""
    if message.has_error():
        raised = message.error.code in (_CLIENT_APP_RAISED, _CLIENT_APP_CRASHED)
        if raised and records.is_code(message.error.reason or ""):  # a site's door gives a code as the reason
            return Absence(site, str(message.error.reason))
        return Absence(site, "site_error" if raised else "unreachable", f"Flower's error code {message.error.code}")
    try:
        answer = records.read_answer(message.content)
    except records.MalformedRecord as flaw:
        return Absence(site, "refused_reply", f"unreadable {flaw}")
    if isinstance(answer, records.Refusal):
        return Absence(site, answer.code)
    if (stale := check_envelope(answer, instruction)) is not None:
        return Absence(site, stale.cause, stale.detail)
    if answer.site != site:
        return Absence(site, "refused_reply", "it bears another site's name")
    return answer
