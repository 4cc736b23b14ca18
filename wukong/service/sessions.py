"""Logins, logouts and SENDs of connected clients: what the gateway calls. behaviour.md sections 4, 5, 8.5.

CONNECT is a command of slot(uid). When it is applied the session counts; then it joins the audiences of the user's
channels in slices, each read from the applied state in the turn in which it joins, while apply's own joins and leaves
go on: so nothing falls between. Only then the login is answered, and the client pulls what it missed.
"""

import asyncio
import hashlib
import hmac
from collections import Counter
from collections.abc import Callable

import msgspec

from wukong.channel.commands import AdvanceCommands, Append, CloseSession, OpenSession, Reply
from wukong.channel.ids import AGENT, PERSON, ChannelId, has_special, person_id, stored_channel
from wukong.channel.presence import LEVEL_MASTER
from wukong.channel.state import State, channel_part
from wukong.clock import Clock
from wukong.dispatch.dispatcher import Dispatcher
from wukong.errors import NotProposed, Unavailable, WukongError
from wukong.node.node import Node
from wukong.protocol.packets import Recvack, Send, Sendack
from wukong.session.registry import LocalSession, Registry

REASON_SUCCESS = 1
REASON_AUTH_FAIL = 2

NO_PERSIST = 1
SYNC_ONCE = 4

SYSTEM_DEVICE = "____device"

_JOIN_SLICE = 256


class Login(msgspec.Struct, frozen=True, gc=False):
    """A CONNECT as the gateway decoded it. version: agreed protocol version; peer: (ip, port)."""

    uid: str
    device_flag: int
    device_id: str
    token: str
    version: int
    via_json: bool
    peer: tuple[str, int]


class LoginRefused(Exception):
    """CONNACK with this reason, then close."""

    def __init__(self, reason: int) -> None:
        super().__init__(f"login refused with reason {reason}")
        self.reason = reason


class Sessions:
    """manager_token: when set, the manager account logs in with it only. send_refusals: reason code of a SENDACK -> how
    often SENDs were refused with it."""

    def __init__(
        self,
        *,
        node: Node,
        dispatcher: Dispatcher,
        registry: Registry,
        clock: Clock,
        manager_uid: str,
        manager_token: str,
        system_uid: str,
        login_timeout_s: float = 10.0,
    ) -> None:
        self._node = node
        self._dispatcher = dispatcher
        self._registry = registry
        self._clock = clock
        self._manager_uid = manager_uid
        self._manager_token = manager_token
        self._system_uid = system_uid
        self._login_timeout_s = login_timeout_s
        self._last_number = 0
        self.send_refusals: Counter[int] = Counter()
        # Logins whose user may not have joined all audiences yet; from the question to the answer, or to the logout.
        self._joining: set[int] = set()
        # Of logins that the log may know: the node's incarnation they were asked for in, until their logout.
        self._incarnations: dict[int, int] = {}

    # -- login and logout --

    def new_number(self) -> int:
        self._last_number += 1
        return self._last_number

    async def login(self, number: int, login: Login) -> int:
        """Open session `number` (from new_number). Returns the device level. Raises LoginRefused, or Unavailable when
        the outcome is not known (close the socket; the client reconnects).

        When it returns, pushes may already have been queued for the session. Call `logout` when the socket is gone,
        also when this raised or was cancelled."""
        trusted = self._check(login)
        token_hash = hash_token(login.token)
        self._registry.expect(
            LocalSession(
                number,
                login.uid,
                device_flag=login.device_flag,
                device_id=login.device_id,
                version=login.version,
                via_json=login.via_json,
                peer=login.peer,
                opened_ms=self._clock.now_ms(),
            )
        )
        self._incarnations[number] = self._node.incarnation
        self._joining.add(number)
        command = OpenSession(login.uid, number, login.device_flag, login.device_id, token_hash, trusted)
        try:
            async with asyncio.timeout(self._login_timeout_s):
                reply = await self._node.execute(self._node.slot(login.uid), command)
        except NotProposed:
            self._incarnations.pop(number, None)
            raise
        except TimeoutError:
            raise Unavailable("the login could not be committed in time") from None
        if reply.reason != REASON_SUCCESS:
            self._registry.forget(number)
            self._incarnations.pop(number, None)
            raise LoginRefused(reply.reason)
        await self._join_audiences(number, login.uid)
        self._joining.discard(number)
        return reply.level

    def is_joining(self, number: int) -> bool:
        """Whether a login is under way, or has failed: its user need not be in all audiences."""
        return number in self._joining

    def _check(self, login: Login) -> bool:
        if login.uid == self._system_uid or login.device_id == SYSTEM_DEVICE:
            raise LoginRefused(REASON_AUTH_FAIL)
        if login.uid != self._manager_uid:
            return False
        if self._manager_token and not hmac.compare_digest(login.token.encode(), self._manager_token.encode()):
            raise LoginRefused(REASON_AUTH_FAIL)
        return True

    async def _join_audiences(self, number: int, uid: str) -> None:
        room = _JOIN_SLICE
        for state in self._node.states:
            start = b""
            while True:
                channels = state.channels_of(uid, start=start, limit=room)
                if not channels:
                    break
                if self._registry.by_number.get(number) is None:
                    return
                # Read and join in one turn: what apply changes later it changes in the audience itself.
                self._dispatcher.join(uid, [channel for channel in channels if _joins(state, channel, uid)])
                room -= len(channels)
                if room:
                    break
                room = _JOIN_SLICE
                start = channel_part(channels[-1]) + b"\x00"
                await asyncio.sleep(0)

    def logout(self, number: int, uid: str) -> None:
        """The socket is gone. Nothing is delivered from here on; the log hears of it."""
        self._dispatcher.forget(number)
        self._joining.discard(number)
        # A refused login is unknown to the log, and sessions of an incarnation that is over have ended with it.
        if self._incarnations.pop(number, None) != self._node.incarnation:
            return
        self._node.propose_always(self._node.slot(uid), CloseSession(uid, number))

    # -- messages --

    @property
    def congested(self) -> bool:
        return self._node.congested

    def when_relieved(self, callback: Callable[[], None]) -> None:
        self._node.when_relieved(callback)

    def send(self, number: int, uid: str, packet: Send, received_at: float = 0.0) -> None:
        """Propose a SEND (payload in clear). Its SENDACK goes to the gateway when it is applied. received_at: on the
        monotonic clock, when its bytes were read; 0 for not to be timed. Raises Unavailable if certainly nothing was
        proposed."""
        gateway = self._dispatcher.gateway
        assert gateway is not None
        kind = packet.channel_type
        channel_id = packet.channel_id
        if kind == PERSON and has_special(channel_id):
            channel = _pair_of(channel_id, uid)
        elif kind in (PERSON, AGENT) and not has_special(channel_id):
            channel = stored_channel(channel_id, kind, uid)
        else:
            channel = ChannelId(kind, channel_id)
        command = Append(
            channel,
            False,
            uid,
            packet.payload,
            packet.client_msg_no,
            packet.flags,
            packet.setting,
            packet.expire,
            packet.topic,
            number,
        )
        client_seq, flags, client_msg_no = packet.client_seq, packet.flags, packet.client_msg_no
        probes = self._dispatcher.probes
        probe = None
        if received_at:
            probes.left -= 1
            if not probes.left or received_at >= probes.due_at:
                probe = probes.sample(number, client_msg_no, received_at)

        def done(reply: Reply | None) -> None:
            if reply is None:
                gateway.drop(number)
                return
            if reply.reason != REASON_SUCCESS:
                self.send_refusals[reply.reason] += 1
            gateway.sendack(
                number,
                Sendack(flags, reply.message_id, client_seq, reply.message_seq, reply.reason, client_msg_no),
            )

        node = self._node
        if probe is None:
            node.propose(node.slot(channel.id), command, done)
            return

        def timed(reply: Reply | None) -> None:
            done(reply)
            probes.end(probe, answered=reply is not None)

        try:
            node.propose(node.slot(channel.id), command, timed)
        except WukongError:
            probes.end(probe, answered=False)
            raise

    def recvack(self, number: int, uid: str, packet: Recvack) -> None:
        """Stop repeating a message; a master's RECVACK of a stored command also moves his command position."""
        if packet.flags & NO_PERSIST:
            return
        session = self._registry.by_number.get(number)
        if session is None:
            return
        waiting = self._dispatcher.acknowledged(session, packet.message_id)
        if waiting is None or waiting.source is None or session.level != LEVEL_MASTER:
            return
        if packet.flags & SYNC_ONCE:
            command = AdvanceCommands(waiting.source, uid, waiting.view.message.message_seq, contiguous=True)
            try:
                self._node.propose(self._node.slot(waiting.source.id), command, None)
            except Unavailable:
                # Not moved: the command comes again with the next /message/sync.
                return


def _pair_of(channel_id: str, uid: str) -> ChannelId:
    """The chat of two persons that was named by its stored id, in whatever order. Anything else, or other people's,
    is a pair that nobody is in: refused in apply like every message of a stranger."""
    parts = channel_id.split("@")
    if len(parts) == 2 and all(parts) and uid in parts and not has_special("".join(parts)):
        return ChannelId(PERSON, person_id(*parts))
    return ChannelId(PERSON, "@")


def _joins(state: State, channel: ChannelId, uid: str) -> bool:
    # Members that follow from the id are not in the audience.
    return channel.type not in (PERSON, AGENT) and state.is_member(channel_part(channel), uid)


def hash_token(token: str) -> bytes:
    """Tokens are kept as SHA-256 only; an empty token has an empty hash and matches nothing."""
    return hashlib.sha256(token.encode()).digest() if token else b""
