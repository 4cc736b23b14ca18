"""SENDs that have no answer yet, in the order in which they were made. Pure but for the futures it completes.

A SEND stays here over reconnects and keeps its client_seq and client_msg_no, so that the server can tell a repetition
from a new message. One whose caller has given up is not sent again, but its late SENDACK still tells the message's seq.
"""

import asyncio
from collections.abc import Iterable
from typing import Final

import msgspec

from wukong.client.message import Sent

ABANDONED_LIMIT_COUNT: Final = 1_000
"""Given-up SENDs remembered; beyond it the oldest is forgotten, and the user's own message may come back by sync."""
CLIENT_SEQ_END: Final = 1 << 32


class Outgoing(msgspec.Struct, frozen=True, eq=False, kw_only=True):
    """One SEND. payload: the plaintext. answer: completed by the outbox."""

    client_seq: int
    client_msg_no: str
    channel_id: str
    channel_type: int
    payload: bytes
    flags: int
    setting: int
    expire: int
    topic: str
    answer: asyncio.Future[Sent]


class Outbox:
    """How many may be here is the caller's affair."""

    def __init__(self) -> None:
        self._pending: dict[int, Outgoing] = {}
        self._abandoned: dict[int, Outgoing] = {}
        # How many of them, because an application may repeat a number by itself while the first is under way.
        self._numbers: dict[str, int] = {}
        self._client_seq = 0

    def __len__(self) -> int:
        return len(self._pending)

    def pending(self) -> Iterable[Outgoing]:
        """In the order in which they were made."""
        return self._pending.values()

    def next_client_seq(self) -> int:
        self._client_seq = self._client_seq % (CLIENT_SEQ_END - 1) + 1
        return self._client_seq

    def add(self, outgoing: Outgoing) -> None:
        self._pending[outgoing.client_seq] = outgoing
        self._numbers[outgoing.client_msg_no] = self._numbers.get(outgoing.client_msg_no, 0) + 1

    def answered(self, client_seq: int) -> Outgoing | None:
        """The SEND that a SENDACK answers, taken out; None when it is not known (answered before)."""
        outgoing = self._pending.pop(client_seq, None) or self._abandoned.pop(client_seq, None)
        if outgoing is not None:
            self._forget(outgoing)
        return outgoing

    def abandon(self, outgoing: Outgoing) -> None:
        """Nobody waits for the answer any more: do not send again. Without effect when it is answered."""
        if self._pending.pop(outgoing.client_seq, None) is None:
            return
        self._abandoned[outgoing.client_seq] = outgoing
        if len(self._abandoned) > ABANDONED_LIMIT_COUNT:
            self._forget(self._abandoned.pop(next(iter(self._abandoned))))

    def fail(self, error: Exception) -> None:
        """The client has ended: every caller gets the error."""
        for outgoing in self._pending.values():
            if not outgoing.answer.done():
                outgoing.answer.set_exception(error)
        self._pending.clear()
        self._abandoned.clear()
        self._numbers.clear()

    def knows(self, client_msg_no: str) -> bool:
        """Whether a message with this number was sent from here and has no answer yet."""
        return client_msg_no in self._numbers

    def _forget(self, outgoing: Outgoing) -> None:
        left = self._numbers[outgoing.client_msg_no] - 1
        if left:
            self._numbers[outgoing.client_msg_no] = left
        else:
            del self._numbers[outgoing.client_msg_no]
