"""Device tokens, sessions, kick order. behaviour.md sections 4.2, 4.3, 14.

CONNECT is a command of slot(uid), so its token check and its kicks are ordered with /user/token and /user/device_quit
on every node. A session's row names the incarnation of its node; when that is over, by the node's next one or because
others found it gone, all its rows are dead at once (no ghosts after kill -9) and are swept when their user next logs
in. Where webhooks tell of sessions, whatever touches a user's sessions sweeps his dead ones first and tells of them;
and `SweepSessions`, which the webhook sender proposes after the end of an incarnation, finds the rest.
"""

import msgspec

from wukong.channel import permissions, webhooks
from wukong.channel.commands import CloseSession, NodeGone, OpenSession, QuitDevices, Reply, SetToken, SweepSessions
from wukong.channel.effects import NodeEnded, SessionEnded, SessionStarted
from wukong.channel.ids import PERSON, ChannelId
from wukong.channel.state import State, after, channel_part, encode, part

LEVEL_SLAVE = 0
LEVEL_MASTER = 1

KICK_REASON = 12
KICK_OTHER_DEVICE = "login in other device"
KICK_NEW_TOKEN = "账号在其他设备上登录"
KICK_CLOSE_MS = 2_000
KICK_NEW_TOKEN_CLOSE_MS = 10_000

# Rows of sessions at which one SweepSessions looks.
SWEEP_ROWS = 500


class TokenRow(msgspec.Struct, array_like=True, gc=False):
    token_hash: bytes
    level: int


class SessionRow(msgspec.Struct, array_like=True, gc=False):
    device_flag: int
    level: int
    device_id: str
    since_ms: int


class Session(msgspec.Struct, frozen=True, gc=False):
    """A live session as the log knows it."""

    uid: str
    node: int
    incarnation: int
    session: int
    device_flag: int
    level: int
    device_id: str
    since_ms: int


_decode_token = msgspec.msgpack.Decoder(TokenRow).decode
_decode_session = msgspec.msgpack.Decoder(SessionRow).decode


class _Changes:
    """What user.onlinestatus tells of one user in one command: each session that begins or ends, with the counts after
    it (behaviour.md 13.3). His dead sessions end first. Nothing happens unless the event is wanted."""

    def __init__(self, state: State, uid: str) -> None:
        self._state = state
        self._uid = uid
        self._entries: list[str] = []
        self._wanted = bool(webhooks.wanted(state.settings) & webhooks.ONLINE)
        # Of the sessions that are left: key -> flag, and flag -> how many.
        self._flags: dict[bytes, int] = {}
        self._counts: dict[int, int] = {}
        if self._wanted:
            dead = []
            for key, session in _rows_of(state, uid):
                self._add(key, session.device_flag)
                if not _is_live(state, session):
                    dead.append(key)
            for key in dead:
                state.delete(key)
                self.ended(key)

    def began(self, key: bytes, device_flag: int) -> None:
        if self._wanted:
            self._add(key, device_flag)
            self._tell(key, device_flag, online=1)

    def ended(self, key: bytes) -> None:
        if self._wanted:
            self._tell(key, self._take(key), online=0)

    def _add(self, key: bytes, flag: int) -> None:
        if key in self._flags:
            self._take(key)
        self._flags[key] = flag
        self._counts[flag] = self._counts.get(flag, 0) + 1

    def _take(self, key: bytes) -> int:
        flag = self._flags.pop(key)
        self._counts[flag] -= 1
        return flag

    def _tell(self, key: bytes, flag: int, *, online: int) -> None:
        session = int.from_bytes(key[-8:], "big")
        self._entries.append(f"{self._uid}-{flag}-{online}-{session}-{self._counts[flag]}-{len(self._flags)}")

    def done(self) -> None:
        webhooks.statuses_added(self._state, self._entries)


def _token_key(uid: str, device_flag: int) -> bytes:
    return b"t" + part(uid) + bytes((device_flag,))


def _session_key(uid: str, node: int, incarnation: int, session: int) -> bytes:
    return b"s" + part(uid) + node.to_bytes(2, "big") + incarnation.to_bytes(8, "big") + session.to_bytes(8, "big")


def set_token(state: State, command: SetToken) -> Reply:
    head = state.head(channel_part(ChannelId(PERSON, command.uid)))
    if head is not None and head.ban:
        return Reply(permissions.BAN)
    if head is not None and head.disband:
        return Reply(permissions.DISBAND)
    state.put(_token_key(command.uid, command.device_flag), encode(TokenRow(command.token_hash, command.level)))
    if command.level == LEVEL_MASTER:
        for session in sessions_of(state, command.uid):
            if session.device_flag == command.device_flag:
                # Its row stays until its socket is closed: a login before that kicks it once more (behaviour.md 4.3).
                state.effects.append(
                    _ended(session, kicked=True, text=KICK_NEW_TOKEN, close_ms=KICK_NEW_TOKEN_CLOSE_MS)
                )
    return Reply()


def quit_devices(state: State, command: QuitDevices) -> Reply:
    changes = _Changes(state, command.uid)
    for flag in command.device_flags:
        key = _token_key(command.uid, flag)
        if state.get(key) is None:
            continue
        state.put(key, encode(TokenRow(b"", LEVEL_MASTER)))
        for session in sessions_of(state, command.uid):
            if session.device_flag == flag:
                _end(state, changes, session, kicked=True, text="", close_after_ms=KICK_CLOSE_MS)
    changes.done()
    return Reply()


def open_session(state: State, command: OpenSession) -> Reply:
    settings = state.settings
    level = LEVEL_SLAVE
    visitor = settings.visitors_on and command.uid.endswith(settings.visitors_suffix)
    if settings.token_auth_on and not command.trusted and not visitor:
        row = state.get(_token_key(command.uid, command.device_flag))
        token = None if row is None else _decode_token(row)
        if token is None or not token.token_hash or token.token_hash != command.token_hash:
            return Reply(permissions.AUTH_FAIL)
        level = token.level
    head = state.head(channel_part(ChannelId(PERSON, command.uid)))
    if head is not None and head.ban:
        return Reply(permissions.BAN)
    changes = _Changes(state, command.uid)
    for session in sessions_of(state, command.uid, sweep=True):
        if session.device_flag != command.device_flag:
            continue
        if session.device_id == command.device_id:
            _end(state, changes, session, kicked=False, text="", close_after_ms=KICK_CLOSE_MS)
        elif level == LEVEL_MASTER:
            _end(state, changes, session, kicked=True, text=KICK_OTHER_DEVICE, close_after_ms=KICK_CLOSE_MS)
    row_ = SessionRow(command.device_flag, level, command.device_id, state.now_ms)
    key = _session_key(command.uid, state.node, state.incarnation, command.session)
    state.put(key, encode(row_))
    changes.began(key, command.device_flag)
    changes.done()
    state.effects.append(
        SessionStarted(command.uid, state.node, state.incarnation, command.session, command.device_flag, level)
    )
    return Reply(level=level)


def close_session(state: State, command: CloseSession) -> Reply:
    key = _session_key(command.uid, state.node, state.incarnation, command.session)
    if state.get(key) is not None:
        changes = _Changes(state, command.uid)
        state.delete(key)
        changes.ended(key)
        changes.done()
        state.effects.append(SessionEnded(command.uid, state.node, state.incarnation, command.session))
    return Reply()


def node_gone(state: State, command: NodeGone) -> Reply:
    stream = state.streams.get(command.node)
    if stream is not None and stream.incarnation == command.incarnation and not stream.ended:
        # Nobody is left to repeat what was answered: its packs are fenced from here on.
        stream.ended = True
        stream.done = stream.last
        stream.replies.clear()
        state.put_stream(command.node, stream)
        state.effects.append(NodeEnded(command.node, command.incarnation))
        incarnation_ended(state)
    return Reply()


def incarnation_ended(state: State) -> None:
    """To be called when some node's is: its sessions are dead by now, and webhooks have to tell of them."""
    if webhooks.wanted(state.settings) & webhooks.ONLINE:
        # Wherever a sweep has got to: it begins again, there may be dead ones behind it.
        state.slot_row.webhooks.sweep_from = b"s"
        webhooks.wake(state, webhooks.ONLINE)


def sweep_due(state: State) -> bool:
    """Whether SweepSessions has something to look at."""
    return bool(state.slot_row.webhooks.sweep_from)


def sweep_sessions(state: State, command: SweepSessions) -> Reply:
    """Looks at SWEEP_ROWS rows, and at the others of the users to whom the dead ones among them belong."""
    queue = state.slot_row.webhooks
    if not queue.sweep_from:
        return Reply()
    rows = state.scan(queue.sweep_from, after(b"s"), limit=SWEEP_ROWS)
    users = {}
    for key, value in rows:
        session = _read_session(key, value)
        if not _is_live(state, session):
            users[session.uid] = session
    for uid in users:
        changes = _Changes(state, uid)
        # If the event is not wanted any more they go without a word.
        sessions_of(state, uid, sweep=True)
        changes.done()
    queue.sweep_from = rows[-1][0] + b"\x00" if len(rows) == SWEEP_ROWS else b""
    return Reply()


def _end(state: State, changes: _Changes, session: Session, *, kicked: bool, text: str, close_after_ms: int) -> None:
    key = _session_key(session.uid, session.node, session.incarnation, session.session)
    state.delete(key)
    changes.ended(key)
    state.effects.append(_ended(session, kicked=kicked, text=text, close_ms=close_after_ms))


def _ended(session: Session, *, kicked: bool, text: str, close_ms: int) -> SessionEnded:
    reason = KICK_REASON if kicked else 0
    return SessionEnded(session.uid, session.node, session.incarnation, session.session, kicked, reason, text, close_ms)


def sessions_of(state: State, uid: str, *, sweep: bool = False) -> list[Session]:
    """The user's live sessions in key order. sweep: delete rows of ended incarnations on the way (in apply only)."""
    found = []
    for key, session in _rows_of(state, uid):
        if _is_live(state, session):
            found.append(session)
        elif sweep:
            state.delete(key)
    return found


def ended_sessions_of(state: State, uid: str) -> list[Session]:
    """Sessions of incarnations that are over, as far as nobody has swept them: his next login does."""
    return [session for _, session in _rows_of(state, uid) if not _is_live(state, session)]


def _rows_of(state: State, uid: str) -> list[tuple[bytes, Session]]:
    prefix = b"s" + part(uid)
    return [(key, _read_session(key, value)) for key, value in state.scan(prefix, after(prefix))]


def _read_session(key: bytes, value: bytes) -> Session:
    row = _decode_session(value)
    return Session(
        key[3:-18].decode(),
        int.from_bytes(key[-18:-16], "big"),
        int.from_bytes(key[-16:-8], "big"),
        int.from_bytes(key[-8:], "big"),
        row.device_flag,
        row.level,
        row.device_id,
        row.since_ms,
    )


def _is_live(state: State, session: Session) -> bool:
    stream = state.streams.get(session.node)
    return stream is not None and stream.incarnation == session.incarnation and not stream.ended
