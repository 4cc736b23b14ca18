"""Stand-ins for what the gateway is given: the clock, and the use cases of wukong.service.sessions."""

import asyncio
from collections.abc import Callable

from wukong.errors import Unavailable
from wukong.gateway.gateway import ClientGateway
from wukong.protocol.packets import Recvack, Send, Sendack
from wukong.service.sessions import Login, LoginRefused


class FakeClock:
    """Stands still but for `advance`."""

    def __init__(self) -> None:
        self.ahead_s = 0.0

    def advance(self, seconds: float) -> None:
        self.ahead_s += seconds

    def now_ms(self) -> int:
        return 1_700_000_000_000 + int(self.ahead_s * 1000)

    def monotonic(self) -> float:
        return 1_000.0 + self.ahead_s


class FakeSessions:
    """Keeps what it was told. Logins succeed, unless `refusals` names a reason for the uid, `is_unavailable` is set, or
    `gate` is closed. SENDs wait for `answer`, unless `answers_at_once`."""

    def __init__(self) -> None:
        self.gateway: ClientGateway | None = None
        self.refusals: dict[str, int] = {}
        self.gate = asyncio.Event()
        self.gate.set()
        self.is_unavailable = False
        self.answers_at_once = True
        self.congested = False
        self.logins: dict[int, Login] = {}
        self.logged_in: list[int] = []
        self.logouts: list[tuple[int, str]] = []
        self.sends: list[tuple[int, str, Send]] = []
        self.recvacks: list[tuple[int, str, Recvack]] = []
        self.cancelled: list[int] = []
        self.changed = asyncio.Event()
        self.most_in_progress = 0
        self._in_progress = 0
        self._answered = 0
        self.relief: list[Callable[[], None]] = []

    async def until(self, holds: Callable[[], bool], timeout_s: float = 10.0) -> None:
        """Wait for what the gateway tells."""
        async with asyncio.timeout(timeout_s):
            while not holds():
                self.changed.clear()
                await self.changed.wait()

    def new_number(self) -> int:
        return len(self.logins) + 1

    async def login(self, number: int, login: Login) -> int:
        self.logins[number] = login
        self.changed.set()
        self._in_progress += 1
        self.most_in_progress = max(self.most_in_progress, self._in_progress)
        try:
            await self.gate.wait()
        except asyncio.CancelledError:
            self.cancelled.append(number)
            self.changed.set()
            raise
        finally:
            self._in_progress -= 1
        if self.is_unavailable:
            raise Unavailable("no quorum")
        if login.uid in self.refusals:
            raise LoginRefused(self.refusals[login.uid])
        self.logged_in.append(number)
        self.changed.set()
        return 0

    def logout(self, number: int, uid: str) -> None:
        self.logouts.append((number, uid))
        self.changed.set()

    def send(self, number: int, uid: str, packet: Send, received_at: float) -> None:
        if self.is_unavailable:
            raise Unavailable("no quorum")
        self.sends.append((number, uid, packet))
        self.changed.set()
        if self.answers_at_once:
            asyncio.get_running_loop().call_soon(self.answer, 1)

    def answer(self, count: int) -> None:
        """SENDACK to the oldest SENDs that have none: message_id 1000 + n and message_seq n of the n-th SEND."""
        assert self.gateway is not None
        for number, _, packet in self.sends[self._answered : self._answered + count]:
            self._answered += 1
            seq = self._answered
            ack = Sendack(packet.flags, 1000 + seq, packet.client_seq, seq, 1, packet.client_msg_no)
            self.gateway.sendack(number, ack)

    def recvack(self, number: int, uid: str, packet: Recvack) -> None:
        self.recvacks.append((number, uid, packet))
        self.changed.set()

    def when_relieved(self, callback: Callable[[], None]) -> None:
        self.relief.append(callback)

    def relieve(self) -> None:
        self.congested = False
        relief, self.relief = self.relief, []
        for callback in relief:
            callback()
