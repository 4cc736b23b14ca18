"""Options that several commands share, and how their texts are read. No heavy imports: every `--help` loads this."""

from typing import Annotated, Final

import typer

DEFAULT_API: Final = "http://127.0.0.1:5001"
DEFAULT_TCP: Final = "127.0.0.1:5100"

# Names of channel types as people write them (wkproto.md, 5.2).
CHANNEL_TYPES: Final = {
    "person": 1,
    "group": 2,
    "customer-service": 3,
    "community": 4,
    "topic": 5,
    "info": 6,
    "data": 7,
    "temp": 8,
    "live": 9,
    "visitors": 10,
    "agent": 11,
    "agent-group": 12,
}


def channel_type(text: str | int) -> int:
    """A name or a number. Typer calls it for the default too, which is a number already."""
    if isinstance(text, int):
        return text
    if text in CHANNEL_TYPES:
        return CHANNEL_TYPES[text]
    if text.isascii() and text.isdigit() and 0 < int(text) < 256:
        return int(text)
    raise typer.BadParameter(f"{text!r} is no channel type: a number, or one of {', '.join(CHANNEL_TYPES)}")


def api_url(text: str) -> str:
    """With a scheme, without a slash at the end."""
    if "://" not in text:
        text = f"http://{text}"
    if not text.startswith(("http://", "https://")):
        raise typer.BadParameter(f"{text!r} is no http:// or https:// address")
    return text.rstrip("/")


def address_list(text: str) -> list[str]:
    return [each.strip() for each in text.split(",") if each.strip()]


Api = Annotated[
    str, typer.Option("--api", envvar="WUKONG_API", help="Address of the server's HTTP API.", callback=api_url)
]
Apis = Annotated[str, typer.Option("--api", envvar="WUKONG_API", help="HTTP API; several nodes separated by commas.")]
Tcp = Annotated[
    str, typer.Option("--tcp", envvar="WUKONG_TCP", help="Client port of the server: host:port, or a ws:// URL.")
]
Tcps = Annotated[
    str, typer.Option("--tcp", envvar="WUKONG_TCP", help="Client port host:port; several nodes separated by commas.")
]
Token = Annotated[str, typer.Option("--token", envvar="WUKONG_TOKEN", help="The server's managerToken, if it has one.")]
UserToken = Annotated[
    str,
    typer.Option("--user-token", envvar="WUKONG_USER_TOKEN", help="The user's login token, if the server checks it."),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")]
ChannelTypeOption = Annotated[
    int, typer.Option("--type", "-t", help="person, group, topic, ... or a number.", parser=channel_type)
]
