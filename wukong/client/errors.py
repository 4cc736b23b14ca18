"""What the client raises, by who must act. Attributes hold the facts; the message is built from them."""

from wukong.errors import WukongError
from wukong.protocol.reasons import reason_text


class ClientError(WukongError):
    """Root of all errors of the client."""


class ConnectFailed(ClientError):
    """No login at the first attempt: nobody listens there, or the peer closed without an answer. Try later.

    address: as it was given to `connect`. cause: what happened.
    """

    def __init__(self, address: str, cause: BaseException) -> None:
        super().__init__(f"cannot connect to {address}: {cause_text(cause)}")
        self.address = address
        self.cause = cause


class LoginRefused(ClientError):
    """The server answered CONNECT with a reason other than 1. Final: the client does not reconnect."""

    def __init__(self, reason: int) -> None:
        super().__init__(f"login refused: {reason_text(reason)} ({reason})")
        self.reason = reason


class Kicked(ClientError):
    """The server sent DISCONNECT, for example because of a login elsewhere. Final: the client does not reconnect."""

    def __init__(self, reason: int, text: str) -> None:
        super().__init__(f"kicked: {text or reason_text(reason)} ({reason})")
        self.reason = reason
        self.text = text


class GaveUp(ClientError):
    """So many attempts to reconnect failed in a row as the back-off allows. Final."""

    def __init__(self, attempts_count: int, cause: BaseException) -> None:
        super().__init__(f"gave up after {attempts_count} attempts to connect: {cause_text(cause)}")
        self.attempts_count = attempts_count
        self.cause = cause


class ClientClosed(ClientError):
    """The client was closed by its owner."""

    def __init__(self) -> None:
        super().__init__("the client is closed")


class SendRefused(ClientError):
    """The server did not take the message. reason: of the SENDACK (wkproto.md, 5.1)."""

    def __init__(self, reason: int, client_msg_no: str) -> None:
        super().__init__(f"message refused: {reason_text(reason)} ({reason})")
        self.reason = reason
        self.client_msg_no = client_msg_no


class SendTimeout(ClientError, TimeoutError):
    """No answer in time; the message may or may not have been stored.

    Sending again with the same client_msg_no is safe: a server that knows the number answers with the first result.
    """

    def __init__(self, timeout_s: float, client_msg_no: str) -> None:
        super().__init__(f"no answer to message {client_msg_no} in {timeout_s:g} s")
        self.timeout_s = timeout_s
        self.client_msg_no = client_msg_no


class ConnectionLost(ClientError):
    """The connection ended and may be opened anew: closed by the peer, or silent for too long."""


class SyncRefused(ClientError):
    """Raised by a sync provider when asking again is of no use; what is missing is then given up."""


class ApiError(ClientError):
    """Root of the errors of the HTTP API."""


class ApiRefused(ApiError):
    """The server understood and said no. http_status: of the answer. status, msg: of its body (http-api.md, 2.6)."""

    def __init__(self, path: str, http_status: int, status: int, msg: str) -> None:
        hint = " (a manager token is needed)" if http_status == 401 else ""
        super().__init__(f"{path} refused with {http_status}: {msg or 'no text'}{hint}")
        self.path = path
        self.http_status = http_status
        self.status = status
        self.msg = msg


class ApiUnavailable(ApiError):
    """No answer, or 5xx: the request may or may not have been carried out. Try again later."""

    def __init__(self, base_url: str, path: str, text: str) -> None:
        super().__init__(f"{base_url}{path}: {text}")
        self.base_url = base_url
        self.path = path
        self.text = text


def cause_text(error: BaseException) -> str:
    """What happened to a connection, for people."""
    if isinstance(error, ConnectionRefusedError):
        return "connection refused"
    if isinstance(error, TimeoutError):
        return str(error) or "no answer in time"
    return str(error) or type(error).__name__
