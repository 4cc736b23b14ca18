"""How long a message takes on this node, stage by stage: some SENDs of clients are timed, and what a request traces.

A probe rides along with a message that was proposed here: it is found again when the message's effect is run. A lone
message is always timed; under load one in 32 is, which costs the others nothing but a comparison.
"""

from collections.abc import Callable

from wukong.clock import Clock
from wukong.histogram import Histogram

_EVERY = 32
_AT_LEAST_EVERY_S = 0.05
_OPEN_LIMIT = 4_096
"""Probes under way; further messages are not timed."""


class Probe:
    """Times on this node's monotonic clock, 0.0 while a stage has not come (and for ever, if it does not).

    received_at: the bytes were read. proposed_at: put into this node's stream to the slot. applied_at: committed and
    applied here. fanned_out_at: queued for every session of a receiver on this node. written_at: handed to the sockets
    of those of them that read. answered_at: the outcome is known to whoever sent it. sessions: RECVs queued here.
    on_written: called when they are written."""

    __slots__ = (
        "answered_at",
        "applied_at",
        "client_msg_no",
        "fanned_out_at",
        "on_written",
        "proposed_at",
        "received_at",
        "session",
        "sessions",
        "written_at",
    )

    def __init__(self, session: int, client_msg_no: str, received_at: float, proposed_at: float) -> None:
        self.session = session
        self.client_msg_no = client_msg_no
        self.received_at = received_at
        self.proposed_at = proposed_at
        self.applied_at = self.fanned_out_at = self.written_at = self.answered_at = 0.0
        self.sessions = 0
        self.on_written: Callable[[], None] | None = None


class Probes:
    """send_s: from the read of a SEND to its SENDACK. delivery_s: from there to the write of its last RECV on this
    node. Only SENDs of clients count in them.

    open: client_msg_no -> probe of a message that is under way; a message under way with the same number takes its
    place. Of SENDs, those are to be timed that find `left` at 0 after they took one from it, or come at `due_at` or
    later: a comparison that the owner makes itself, for it is made for each of them."""

    __slots__ = ("delivery_s", "due_at", "left", "monotonic", "open", "send_s")

    def __init__(self, clock: Clock) -> None:
        self.monotonic = clock.monotonic
        self.send_s = Histogram()
        self.delivery_s = Histogram()
        self.open: dict[str, Probe] = {}
        self.left = _EVERY
        self.due_at = 0.0

    def sample(self, session: int, client_msg_no: str, received_at: float) -> Probe | None:
        """A probe for a SEND whose turn it is."""
        self.left = _EVERY
        self.due_at = received_at + _AT_LEAST_EVERY_S
        return self.begin(session, client_msg_no, received_at)

    def begin(self, session: int, client_msg_no: str, received_at: float) -> Probe | None:
        """A probe for a message that is about to be proposed; session 0 for one of the API. `end` it. None if there
        are too many."""
        if len(self.open) >= _OPEN_LIMIT:
            return None
        probe = self.open[client_msg_no] = Probe(session, client_msg_no, received_at, self.monotonic())
        return probe

    def applied(self, session: int, client_msg_no: str) -> Probe | None:
        """The effect of a message is about to be run."""
        probe = self.open.get(client_msg_no)
        if probe is None or probe.session != session:
            return None
        del self.open[client_msg_no]
        probe.applied_at = self.monotonic()
        return probe

    def fanned_out(self, probe: Probe, sessions: int) -> None:
        probe.fanned_out_at = self.monotonic()
        probe.sessions = sessions

    def written(self, probe: Probe) -> None:
        """All of its RECVs have left."""
        probe.written_at = self.monotonic()
        if probe.on_written is not None:
            probe.on_written()
        if probe.session:
            self.delivery_s.add(probe.written_at - probe.received_at)

    def end(self, probe: Probe, *, answered: bool) -> None:
        """The outcome is there. answered: the sender is told."""
        if self.open.get(probe.client_msg_no) is probe:
            del self.open[probe.client_msg_no]
        if answered:
            probe.answered_at = self.monotonic()
            if probe.session:
                self.send_s.add(probe.answered_at - probe.received_at)
