"""Errors by who must act. Attributes hold the facts; the message is built from them."""

import errno


class WukongError(Exception):
    """Root of everything this package raises on purpose."""


class ProtocolError(WukongError):
    """The peer broke the wire protocol; the connection is closed. Final for the connection."""


class FrameTooLarge(ProtocolError):
    """A frame body beyond the limit; raised before the body is buffered."""

    def __init__(self, body_bytes: int, limit_bytes: int) -> None:
        super().__init__(f"frame body of {body_bytes} bytes is over the limit of {limit_bytes}")
        self.body_bytes = body_bytes
        self.limit_bytes = limit_bytes


class RequestRefused(WukongError):
    """The caller's request cannot be carried out and nothing was changed.

    status: HTTP status for the answer. code: number in the body's `status` field (reference: http-api.md, 2.6).
    """

    def __init__(self, text: str, *, status: int = 400, code: int | None = None) -> None:
        super().__init__(text)
        self.text = text
        self.status = status
        self.code = status if code is None else code


class Unavailable(WukongError):
    """Not now: no leader, no quorum, stopping, overloaded, or the outcome is unknown. The caller may retry."""


class NotProposed(Unavailable):
    """Unavailable, and certainly nothing was proposed."""


class NotLeader(Unavailable):
    """This node does not lead the group; leader is the node id to ask, if known."""

    def __init__(self, group: int, leader: int | None) -> None:
        super().__init__(f"group {group} is led by node {leader}" if leader else f"group {group} has no known leader")
        self.group = group
        self.leader = leader


class ConfigError(WukongError):
    """The operator's configuration cannot be used; faults lists every fault found, each with the key's path."""

    def __init__(self, faults: list[str]) -> None:
        super().__init__("; ".join(faults))
        self.faults = faults


class DataError(WukongError):
    """Files on disk are damaged or belong to something else; the text says which file, where, and what to do."""


class ListenError(WukongError):
    """An address of the configuration cannot be listened on; the text names its key and what to do."""

    def __init__(self, key: str, address: str, cause: OSError) -> None:
        if cause.errno == errno.EADDRINUSE:
            advice = "another process is listening there; stop it, or choose another address"
        elif cause.errno in (errno.EACCES, errno.EPERM):
            advice = "this user may not listen there; choose a port above 1023, or give it the right"
        else:
            advice = f"{cause.strerror or cause}; choose an address of this machine"
        super().__init__(f"cannot listen on {address} (key {key}): {advice}")
        self.key = key
        self.address = address
