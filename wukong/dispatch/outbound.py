"""What dispatch and the use cases ask of the gateway. Data only, so that the gateway may be another process.

Sessions are named by their number in this incarnation of the node. Unknown numbers are ignored: the socket is gone.
"""

from collections.abc import Callable
from typing import Protocol

from wukong.protocol.event_frame import SharedEvent
from wukong.protocol.packets import Sendack
from wukong.protocol.recv_frame import RecvView


class Gateway(Protocol):
    def deliver(self, view: RecvView, sessions: list[int]) -> None:
        """Queue one RECV on each session; order per session is the order of calls. Sealing and writing follow in
        slices. A session over its outbound limit is closed; its client pulls what it missed."""
        ...

    def deliver_event(self, event: SharedEvent, sessions: list[int]) -> None:
        """Queue one EVENT on each session, in order with its RECVs; a session whose client does not know the packet is
        passed over."""
        ...

    def when_written(self, callback: Callable[[], None]) -> None:
        """Call back when what is queued for sessions that read has been handed to their sockets; at once if nothing
        waits."""
        ...

    def sendack(self, session: int, packet: Sendack) -> None:
        """Answer one SEND; frees its place among the session's SENDs in flight."""
        ...

    def end(self, session: int, *, reason: int, text: str, close_after_ms: int) -> None:
        """The session is over: nothing is delivered to it any more. reason 0: close the socket after close_after_ms;
        otherwise send DISCONNECT(reason, text) first (SDKs take it as final)."""
        ...

    def drop(self, session: int) -> None:
        """Close the socket now, without a frame, in a way that makes SDKs reconnect (WebSocket 1013)."""
        ...
