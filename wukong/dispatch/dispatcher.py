"""Runs the effects of apply on the node that holds the sessions: fan-out, audience, kicks, RECVACK windows.

Called with the effects of one step in log order, in the turn in which they were applied; there is no await in here, so
a session's frames are queued in the order of the log.
"""

from collections.abc import Iterable

from wukong.channel.effects import Effect, EventPush, FanOut, MembersChanged, SessionEnded, SessionStarted
from wukong.channel.ids import ChannelId
from wukong.clock import Clock
from wukong.dispatch import plan
from wukong.dispatch.outbound import Gateway
from wukong.dispatch.retry import RetryPolicy, Waiting, remember, take_due
from wukong.protocol.event_frame import SharedEvent
from wukong.protocol.packets import Event
from wukong.protocol.recv_frame import RecvView, SharedRecv
from wukong.session.audience import Audience
from wukong.session.registry import LocalSession, Registry

EVENT_VERSION = 5


class Dispatcher:
    """gateway is set by the composition root before the node goes live.

    pushed, events_pushed, retried, retries_dropped: counters for metrics."""

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
    ) -> None:
        self.gateway: Gateway | None = None
        self._node_id = node_id
        self._registry = registry
        self._audience = audience
        self._clock = clock
        self._policy = policy
        self._system_uid = system_uid
        self._cmd_suffix = cmd_suffix
        self.pushed = 0
        self.events_pushed = 0
        self.retried = 0
        self.retries_dropped = 0

    def run(self, effects: list[Effect]) -> None:
        now_ms = int(self._clock.monotonic() * 1000)
        for effect in effects:
            kind = type(effect)
            if kind is FanOut:
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
            self._push(shared.view(from_uid, channel_id, kind, flags), source, others, now_ms)
        if own:
            from_uid, channel_id, flags = plan.shown_to_sender(effect, self._system_uid, self._cmd_suffix)
            self._push(shared.view(from_uid, channel_id, kind, flags), source, own, now_ms)

    def _push(self, view: RecvView, source: ChannelId | None, sessions: list[LocalSession], now_ms: int) -> None:
        assert self.gateway is not None
        message = view.message
        if message.message_seq:
            policy = self._policy
            for session in sessions:
                window = session.unacked
                if window is None:
                    window = session.unacked = {}
                if remember(window, message.message_id, view, source, now_ms, policy):
                    self.retries_dropped += 1
        self.pushed += len(sessions)
        self.gateway.deliver(view, [session.number for session in sessions])

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
        self.forget(effect.session)
        # Before the gateway is there, only sessions of an earlier life end.
        if (effect.close_after_ms or effect.kicked) and self.gateway is not None:
            self.gateway.end(
                effect.session, reason=effect.reason, text=effect.text, close_after_ms=effect.close_after_ms
            )

    def forget(self, number: int) -> LocalSession | None:
        """A session gets nothing any more; its user leaves the audiences with his last one."""
        self._registry.forget(number)
        session = self._registry.end(number)
        if session is not None and not self._registry.is_online(session.uid):
            self._audience.forget(session.uid)
        return session

    def forget_all(self) -> None:
        """Every session here is over at once: it may have missed something. Close the sockets after this."""
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
        if not window:
            session.unacked = None
        return found

    def retry(self, session: LocalSession) -> int:
        """Push again what is due on a session. Returns how many pushes that were."""
        assert self.gateway is not None
        if not session.unacked:
            return 0
        due = take_due(session.unacked, int(self._clock.monotonic() * 1000), self._policy)
        for view in due:
            self.gateway.deliver(view, [session.number])
        self.retried += len(due)
        return len(due)
