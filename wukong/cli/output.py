"""What commands print and how they end.

Results go to stdout, as text for people or as one JSON value (`--json`); everything else goes to stderr. Exit status: 0
done, 1 the server said no or a check failed, 2 the command line or the configuration is wrong, 3 no server there.
"""

import asyncio
import sys
from collections.abc import Callable, Coroutine
from typing import Any, Final, NoReturn, TypeVar

import typer

EXIT_REFUSED: Final = 1
EXIT_USAGE: Final = 2
EXIT_UNREACHABLE: Final = 3
EXIT_INTERRUPTED: Final = 130

T = TypeVar("T")


def run(work: Coroutine[Any, Any, T], *, as_json: bool = False, fast_loop: bool = False) -> T:
    """Run a command's coroutine. Errors that people can do something about end the command in plain words."""
    from wukong.errors import WukongError

    try:
        if fast_loop:
            import uvloop

            return uvloop.run(work)
        return asyncio.run(work)
    except KeyboardInterrupt:
        raise typer.Exit(EXIT_INTERRUPTED) from None
    except (WukongError, OSError, TimeoutError, ValueError) as error:
        fail(error, as_json=as_json)


def fail(error: BaseException, *, as_json: bool = False) -> NoReturn:
    text, status = explain(error)
    sys.stderr.write(f"wukong: {text}\n")
    if as_json:
        print_json({"error": text})
    raise typer.Exit(status) from None


def explain(error: BaseException) -> tuple[str, int]:
    """What to tell the user, and the exit status."""
    from wukong.cli.lean import NoLogin
    from wukong.client import errors as client

    if isinstance(error, client.ApiUnavailable):
        return f"{error}. {_API_HINT}", EXIT_UNREACHABLE
    if isinstance(error, client.ConnectFailed):
        return f"{error}. {_CLIENT_PORT_HINT}", EXIT_UNREACHABLE
    if isinstance(error, NoLogin) and not error.reason:
        return f"{error}. {_CLIENT_PORT_HINT}", EXIT_UNREACHABLE
    if isinstance(error, client.LoginRefused | NoLogin):
        return f"{error}. {_LOGIN_HINTS.get(error.reason, '')}".rstrip(), EXIT_REFUSED
    if isinstance(error, client.SendRefused):
        return f"{error}. {_SEND_HINTS.get(error.reason, '')}".rstrip(), EXIT_REFUSED
    if isinstance(error, client.ApiRefused) and error.http_status == 401:
        return f"{error}: give it with --token or WUKONG_TOKEN", EXIT_REFUSED
    if isinstance(error, ValueError):
        return str(error), EXIT_USAGE
    return str(error) or type(error).__name__, EXIT_REFUSED


_API_HINT: Final = "Is the server running? `wukong serve` starts one; --api or WUKONG_API says where it is."
_CLIENT_PORT_HINT: Final = "Is the server running? `wukong serve` starts one; --tcp or WUKONG_TCP says where it is."
_LOGIN_HINTS: Final = {
    2: "The server checks tokens: give the user's with --user-token (POST /user/token sets it).",
    19: "The user is banned.",
}
_SEND_HINTS: Final = {
    3: "The sender is not a member: `wukong channel add CHANNEL UID` adds him.",
    4: "The sender is on the deny list.",
    13: "The sender is not on the allow list.",
    19: "The channel is banned.",
    24: "The channel was dissolved.",
    25: "The sender may not send anywhere.",
}


def print_json(value: object) -> None:
    import msgspec

    sys.stdout.write(msgspec.json.encode(value).decode() + "\n")
    sys.stdout.flush()


def report(value: object, *, as_json: bool, text: Callable[[], str]) -> None:
    """The result of a command: JSON, or what text gives."""
    if as_json:
        print_json(value)
    else:
        sys.stdout.write(text().rstrip("\n") + "\n")


def warn(text: str) -> None:
    sys.stderr.write(f"wukong: {text}\n")
