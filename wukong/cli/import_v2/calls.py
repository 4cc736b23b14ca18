"""Calls to both servers: repeated while a server does not answer, and read as loosely as Go servers write."""

import asyncio
from typing import Any, Final, TypeVar

import msgspec

from wukong.client.admin import AdminClient
from wukong.client.errors import ApiUnavailable

TIMEOUT_S: Final = 30.0
# Pauses between the attempts of one call; it fails after the last one.
PAUSES_S: Final = (0.1, 0.4, 1.0, 2.0, 4.0)

T = TypeVar("T")


class Server:
    """The HTTP API at url. All calls made here may be repeated without harm."""

    def __init__(self, url: str, token: str) -> None:
        self.url = url
        self.admin = AdminClient(url, token or None, timeout_s=TIMEOUT_S)

    async def close(self) -> None:
        await self.admin.close()

    async def call(
        self, into: type[T], method: str, path: str, *, body: object = None, query: dict[str, Any] | None = None
    ) -> T:
        """The answer. Raises ApiRefused; ApiUnavailable when there is none after the last attempt, or an unreadable
        one."""
        for pause_s in (*PAUSES_S, None):
            try:
                content = await self.admin.call(method, path, body=body, query=query)
                return msgspec.json.decode(content, type=into, strict=False)
            except msgspec.MsgspecError as fault:
                raise ApiUnavailable(self.url, path, f"answer cannot be read: {fault}") from fault
            except ApiUnavailable:
                if pause_s is None:
                    raise
                await asyncio.sleep(pause_s)
        raise AssertionError("not reached")

    async def post(self, into: type[T], path: str, body: object) -> T:
        return await self.call(into, "POST", path, body=body)

    async def get(self, into: type[T], path: str, **query: Any) -> T:
        return await self.call(into, "GET", path, query=query)
