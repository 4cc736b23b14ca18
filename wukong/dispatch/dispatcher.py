"""Runs the effects of apply on the node that holds the sessions: fan-out, audience, kicks, RECVACK windows.

Called with the effects of one step in log order, in the turn in which they were applied; there is no await in here, so
a session's frames are queued in the order of the log.
"""

from collections.abc import Iterable

from wukong.channel.effects import Effect, EventPush, FanOut, MembersChanged, SessionEnded, SessionStarted
from wukong.channel.ids import ChannelId
from wukong.clock import Clock
from wukong.dispatch import plan
from wukong.dispatch.deliveries import FENCED, KICKED, REPLACED, Deliveries
from wukong.dispatch.outbound import Gateway
from wukong.dispatch.probes import Probes
from wukong.dispatch.retry import RetryPolicy, Waiting, remember, take_due
from wukong.protocol.event_frame import SharedEvent
from wukong.protocol.packets import Event
from wukong.protocol.recv_frame import RecvView, SharedRecv
from wukong.session.audience import Audience
from wukong.session.registry import LocalSession, Registry

EVENT_VERSION = 5


class Dispatcher:
    """gateway is set by the composition root before the node goes live. deliveries: what remembers pushes, None for
    nothing.

    probes: times of some messages. Counters for metrics: pushed, events_pushed, retried, retries_dropped;
    pushes_tracked: first pushes of messages that are to be acknowledged; of those acknowledged_first before they were
    repeated, and acknowledged_late."""

    def __init__(
        self,
        *,
        node_id: int,
        registry: Registry,
        audience: Audience,
        clock: Clock,
        policy: RetryPolicy,
        system_uid: str,
        cmd_suffix: str,
        probes: Probes | None = None,
        deliveries: Deliveries | None = None,
    ) -> None:
        self.gateway: Gateway | None = None
        self.probes = probes or Probes(clock)
        self._node_id = node_id
        self._registry = registry
        self._audience = audience
        self._clock = clock
        self._monotonic = clock.monotonic
        self._policy = policy
        self._system_uid = system_uid
        self._cmd_suffix = cmd_suffix
        self._deliveries = deliveries
        self.pushed = 0
        self.events_pushed = 0
        self.retried = 0
        self.retries_dropped = 0
        self.pushes_tracked = 0
        self.acknowledged_first = 0
        self.acknowledged_late = 0

    def run(self, effects: list[Effect]) -> None:
        now_ms = int(self._clock.monotonic() * 1000)
        probes_open = self.probes.open
        for effect in effects:
            kind = type(effect)
            if kind is FanOut:
                if probes_open and effect.message.client_msg_no in probes_open:  # type: ignore[union-attr]
                    self._fan_out_timed(effect, now_ms)  # type: ignore[arg-type]
                else:
                    self._fan_out(effect, now_ms)  # type: ignore[arg-type]
            elif kind is EventPush:
                self._push_event(effect)  # type: ignore[arg-type]
            elif kind is MembersChanged:
                self._members_changed(effect)  # type: ignore[arg-type]
            elif kind is SessionStarted:
                self._started(effect)  # type: ignore[arg-type]
            elif kind is SessionEnded:
                self._ended(effect)  # type: ignore[arg-type]

    # -- fan-out --

    def _fan_out_timed(self, effect: FanOut, now_ms: int) -> None:
        probes, before = self.probes, self.pushed
        probe = None
        if effect.node == self._node_id:
            probe = probes.applied(effect.session, effect.message.client_msg_no)
        self._fan_out(effect, now_ms)
        if probe is not None:
            probes.fanned_out(probe, self.pushed - before)
            if probe.sessions:
                assert self.gateway is not None
                self.gateway.when_written(lambda: probes.written(probe))

    def _fan_out(self, effect: FanOut, now_ms: int) -> None:
        message = effect.message
        sender = message.from_uid
        skip = effect.session if effect.node == self._node_id else 0
        of = self._registry.of
        others: list[LocalSession] = []
        own: list[LocalSession] = []
        for uid in plan.recipients(effect, self._audience):
            sessions = of(uid)
            if not sessions or uid == self._system_uid:
                continue
            if uid == sender:
                own += [session for session in sessions if session.number != skip]
            else:
                others += sessions
        if not others and not own:
            return
        shared = SharedRecv(
            message_id=message.message_id,
            message_seq=message.message_seq,
            setting=message.setting,
            client_msg_no=message.client_msg_no,
            timestamp=message.timestamp,
            expire=message.expire,
            topic=message.topic,
            payload=message.payload,
        )
        kind = effect.channel.type
        source = effect.channel if effect.is_cmd else None
        if others:
            from_uid, channel_id, flags = plan.shown_to_others(effect, self._system_uid, self._cmd_suffix)
            self._push(shared.view(from_uid, channel_id, kind, flags), effect.channel, source, others, now_ms)
        if own:
            from_uid, channel_id, flags = plan.shown_to_sender(effect, self._system_uid, self._cmd_suffix)
            self._push(shared.view(from_uid, channel_id, kind, flags), effect.channel, source, own, now_ms)

    def _push(
        self, view: RecvView, channel: ChannelId, source: ChannelId | None, sessions: list[LocalSession], now_ms: int
    ) -> None:
        assert self.gateway is not None
        message = view.message
        if message.message_seq:
            policy = self._policy
            self.pushes_tracked += len(sessions)
            for session in sessions:
                window = session.unacked
                if window is None:
                    window = session.unacked = {}
                if remember(window, message.message_id, view, source, now_ms, policy):
                    self.retries_dropped += 1
        self.pushed += len(sessions)
        numbers = [session.number for session in sessions]
        self.gateway.deliver(view, numbers)
        if self._deliveries is not None:
            self._deliveries.pushed(message.message_id, channel, numbers, now_ms)

    def _push_event(self, effect: EventPush) -> None:
        sessions = [
            session.number
            for uid in plan.members_here(effect.channel, self._audience)
            if uid != self._system_uid
            for session in self._registry.of(uid)
            # Older clients break on the packet (wkproto.md, 7.7), and must not queue up what they never get.
            if session.via_json or session.version >= EVENT_VERSION
        ]
        if sessions:
            assert self.gateway is not None
            event = Event(effect.event_id, effect.event_type, effect.occurred_at, plan.event_data(effect))
            self.gateway.deliver_event(SharedEvent(event), sessions)
            self.events_pushed += len(sessions)

    # -- membership and sessions --

    def _members_changed(self, effect: MembersChanged) -> None:
        audience, channel = self._audience, effect.channel
        if effect.cleared:
            audience.clear(channel)
        for uid in effect.removed:
            audience.leave(channel, uid)
        for uid in effect.added:
            if self._registry.is_online(uid):
                audience.join(channel, uid)

    def _started(self, effect: SessionStarted) -> None:
        if effect.node == self._node_id:
            self._registry.start(effect.session, effect.level)

    def _ended(self, effect: SessionEnded) -> None:
        if effect.node != self._node_id:
            return
        self._note_end(effect.session, KICKED if effect.kicked else REPLACED, effect.text)
        self.forget(effect.session)
        # Before the gateway is there, only sessions of an earlier life end.
        if (effect.close_after_ms or effect.kicked) and self.gateway is not None:
            self.gateway.end(
                effect.session, reason=effect.reason, text=effect.text, close_after_ms=effect.close_after_ms
            )

    def ended(self, number: int, why: str) -> None:
        """The gateway lets go of a session, and why; its logout follows. Whatever ended it first counts."""
        self._note_end(number, why)

    def _note_end(self, number: int, why: str, text: str = "") -> None:
        session = self._registry.by_number.get(number)
        if self._deliveries is not None and session is not None and not session.closing:
            session.closing = True
            self._deliveries.ended(session, int(self._clock.monotonic() * 1000), why, text)

    def forget(self, number: int) -> LocalSession | None:
        """A session gets nothing any more; its user leaves the audiences with his last one."""
        self._registry.forget(number)
        session = self._registry.end(number)
        if session is not None and not self._registry.is_online(session.uid):
            self._audience.forget(session.uid)
        return session

    def forget_all(self) -> None:
        """Every session here is over at once: it may have missed something. Close the sockets after this."""
        if self._deliveries is not None:
            over = (session for session in self._registry.by_number.values() if not session.closing)
            self._deliveries.all_ended(over, int(self._clock.monotonic() * 1000), FENCED)
        self._registry.clear()
        self._audience.clear_all()

    def join(self, uid: str, channels: Iterable[ChannelId]) -> None:
        """Add a user who has a session here to audiences, as read from the applied state in this very turn."""
        for channel in channels:
            self._audience.join(channel, uid)

    # -- acknowledgements --

    def acknowledged(self, session: LocalSession, message_id: int) -> Waiting | None:
        """RECVACK: what was waiting for it, if anything."""
        window = session.unacked
        if window is None:
            return None
        found: Waiting | None = window.pop(message_id, None)
        if found is not None:
            if self._deliveries is not None:
                self._deliveries.acknowledged(message_id, session.number, int(self._monotonic() * 1000))
            if found.attempts:
                self.acknowledged_late += 1
            else:
                self.acknowledged_first += 1
        if not window:
            session.unacked = None
        return found

    def retry(self, session: LocalSession) -> int:
        """Push again what is due on a session. Returns how many pushes that were."""
        assert self.gateway is not None
        if not session.unacked:
            return 0
        now_ms = int(self._clock.monotonic() * 1000)
        due = take_due(session.unacked, now_ms, self._policy)
        for view in due:
            self.gateway.deliver(view, [session.number])
            if self._deliveries is not None:
                self._deliveries.repeated(view.message.message_id, session.number, now_ms)
        self.retried += len(due)
        return len(due)
