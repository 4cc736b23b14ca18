"""Sessions that this node holds: number -> session, uid -> sessions. Pure data; changed by the loop's thread only.

A session number is unique in one incarnation of a node. A session counts as connected from the log position of its
SessionStarted on; before that it is only expected.
"""

from typing import Any


class LocalSession:
    """One accepted login on this node.

    unacked: stored messages pushed and not yet acknowledged, message_id -> retry entry, oldest attempt first; None
    while there are none. Owned by wukong.dispatch."""

    __slots__ = (
        "closing",
        "device_flag",
        "device_id",
        "level",
        "number",
        "opened_ms",
        "peer",
        "uid",
        "unacked",
        "version",
        "via_json",
    )

    def __init__(
        self,
        number: int,
        uid: str,
        *,
        device_flag: int,
        device_id: str,
        version: int,
        via_json: bool,
        peer: tuple[str, int],
        opened_ms: int,
    ) -> None:
        self.number = number
        self.uid = uid
        self.device_flag = device_flag
        self.device_id = device_id
        self.version = version
        self.via_json = via_json
        self.peer = peer
        self.opened_ms = opened_ms
        self.level = 0
        self.closing = False
        self.unacked: dict[int, Any] | None = None


_NONE: tuple[LocalSession, ...] = ()


class Registry:
    """by_number holds started sessions in the order of their starts."""

    def __init__(self) -> None:
        self._expected: dict[int, LocalSession] = {}
        self.by_number: dict[int, LocalSession] = {}
        self._by_uid: dict[str, tuple[LocalSession, ...]] = {}

    def expect(self, session: LocalSession) -> None:
        """A login is being asked for; `start` will follow, or `forget`."""
        self._expected[session.number] = session

    def forget(self, number: int) -> None:
        self._expected.pop(number, None)

    def start(self, number: int, level: int) -> LocalSession | None:
        """None when nobody expects this session any more (its socket is gone)."""
        session = self._expected.pop(number, None)
        if session is None:
            return None
        session.level = level
        self.by_number[number] = session
        self._by_uid[session.uid] = (*self._by_uid.get(session.uid, _NONE), session)
        return session

    def end(self, number: int) -> LocalSession | None:
        session = self.by_number.pop(number, None)
        if session is None:
            return None
        left = tuple(other for other in self._by_uid[session.uid] if other is not session)
        if left:
            self._by_uid[session.uid] = left
        else:
            del self._by_uid[session.uid]
        return session

    def clear(self) -> None:
        """Nobody is connected or expected any more."""
        self._expected.clear()
        self.by_number.clear()
        self._by_uid.clear()

    def of(self, uid: str) -> tuple[LocalSession, ...]:
        return self._by_uid.get(uid, _NONE)

    def is_online(self, uid: str) -> bool:
        return uid in self._by_uid

    def __len__(self) -> int:
        return len(self.by_number)
