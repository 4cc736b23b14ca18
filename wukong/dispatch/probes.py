"""How long a message takes on this node, stage by stage: some SENDs of clients are timed, and what a request traces.

A probe rides along with a message that was proposed here: it is found again when the message's effect is run. A lone
message is always timed; under load every eighth is, which costs the others nothing but a comparison.
"""

from wukong.clock import Clock
from wukong.histogram import Histogram

_EVERY = 8
_AT_LEAST_EVERY_S = 0.05
_OPEN_LIMIT = 4_096
"""Probes under way; further messages are not timed."""


class Probe:
    """Times on this node's monotonic clock, 0.0 while a stage has not come (and for ever, if it does not).

    received_at: the bytes were read. proposed_at: put into this node's stream to the slot. applied_at: committed and
    applied here. fanned_out_at: queued for every session of a receiver on this node. written_at: handed to the sockets
    of those of them that read. answered_at: the sender has its answer. sessions: RECVs queued here."""

    __slots__ = (
        "answered_at",
        "applied_at",
        "fanned_out_at",
        "key",
        "proposed_at",
        "received_at",
        "sessions",
        "written_at",
    )

    def __init__(self, key: tuple[int, str], received_at: float, proposed_at: float) -> None:
        self.key = key
        self.received_at = received_at
        self.proposed_at = proposed_at
        self.applied_at = self.fanned_out_at = self.written_at = self.answered_at = 0.0
        self.sessions = 0


class Probes:
    """send_s: from the read of a SEND to its SENDACK. delivery_s: from there to the write of its last RECV on this
    node. Only SENDs of clients count in them."""

    def __init__(self, clock: Clock) -> None:
        self._monotonic = clock.monotonic
        self.send_s = Histogram()
        self.delivery_s = Histogram()
        self.open: dict[tuple[int, str], Probe] = {}
        self._count = 0
        self._due_at = 0.0

    def sample(self, session: int, client_msg_no: str, received_at: float) -> Probe | None:
        """A probe for a SEND, if it is its turn to be timed."""
        self._count += 1
        if self._count < _EVERY and received_at < self._due_at:
            return None
        self._count = 0
        self._due_at = received_at + _AT_LEAST_EVERY_S
        return self.begin(session, client_msg_no, received_at)

    def begin(self, session: int, client_msg_no: str, received_at: float) -> Probe | None:
        """A probe for a message that is about to be proposed; session 0 for one of the API. `end` it. None if there
        are too many."""
        if len(self.open) >= _OPEN_LIMIT:
            return None
        key = session, client_msg_no
        probe = self.open[key] = Probe(key, received_at, self._monotonic())
        return probe

    def applied(self, session: int, client_msg_no: str) -> Probe | None:
        """The effect of a message is about to be run."""
        probe = self.open.pop((session, client_msg_no), None)
        if probe is not None:
            probe.applied_at = self._monotonic()
        return probe

    def fanned_out(self, probe: Probe, sessions: int) -> None:
        probe.fanned_out_at = self._monotonic()
        probe.sessions = sessions

    def written(self, probe: Probe) -> None:
        """All of its RECVs have left."""
        probe.written_at = self._monotonic()
        if probe.key[0]:
            self.delivery_s.add(probe.written_at - probe.received_at)

    def end(self, probe: Probe, *, answered: bool) -> None:
        """The outcome is there. answered: the sender is told."""
        if self.open.get(probe.key) is probe:
            del self.open[probe.key]
        if answered:
            probe.answered_at = self._monotonic()
            if probe.key[0]:
                self.send_s.add(probe.answered_at - probe.received_at)
