"""How a request reaches the back end: HTTP. http-api.md 16.1, traps 49 and 50.

A transport tries once; who tries again, and when, is the sender's business.
"""

import asyncio
from collections.abc import Mapping
from typing import Protocol

import aiohttp
from yarl import URL

from wukong import __version__
from wukong.limits import KIB

TOTAL_TIMEOUT_S = 30.0
CONNECT_TIMEOUT_S = 5.0
HEADERS_TIMEOUT_S = 10.0
# An answer's body is of no interest; it is read so that the connection can be used again. A longer one costs it.
ANSWER_LIMIT_BYTES = 64 * KIB
# Below what web servers keep an idle connection open for: else the first request after a pause meets a closed one.
KEEP_ALIVE_S = 4.0


class DeliveryFailed(Exception):
    """The back end did not take a request, or nobody knows whether it did. The text holds no address and no payload.
    refused: it answered, and said no."""

    def __init__(self, text: str, *, refused: bool = False) -> None:
        super().__init__(text)
        self.refused = refused


class Transport(Protocol):
    """name: the address as logs may show it, without path, query and credentials."""

    name: str

    async def post(self, event: str, body: bytes, headers: Mapping[str, str]) -> None:
        """Send once; it returns when the back end has taken it. Raises DeliveryFailed."""
        ...

    async def close(self) -> None: ...


class HttpTransport:
    """POST to address, with `?event=NAME` behind it. Only status 200 is success; redirects are not followed, since a
    signed body goes to nobody but its addressee. Make it on the running loop."""

    def __init__(self, address: str, *, connections: int) -> None:
        url = URL(address)
        self.name = f"{url.scheme}://{url.host}:{url.port}"
        self._address = address
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=connections, keepalive_timeout=KEEP_ALIVE_S),
            timeout=aiohttp.ClientTimeout(
                total=TOTAL_TIMEOUT_S, sock_connect=CONNECT_TIMEOUT_S, sock_read=HEADERS_TIMEOUT_S
            ),
            cookie_jar=aiohttp.DummyCookieJar(),
            headers={"Content-Type": "application/json", "User-Agent": f"wukong/{__version__}"},
            auto_decompress=False,
        )

    async def post(self, event: str, body: bytes, headers: Mapping[str, str]) -> None:
        url = URL(event_url(self._address, event), encoded=True)
        try:
            try:
                status = await self._try(url, body, headers)
            except aiohttp.ServerDisconnectedError:
                # Most likely it closed an idle connection in this moment. The id tells it if it did take the request.
                status = await self._try(url, body, headers)
        except TimeoutError:
            raise DeliveryFailed("no answer in time") from None
        except (aiohttp.ClientError, OSError) as error:
            raise DeliveryFailed(type(error).__name__) from error
        if status != 200:
            raise DeliveryFailed(f"HTTP {status}", refused=True)

    async def _try(self, url: URL, body: bytes, headers: Mapping[str, str]) -> int:
        async with self._session.post(url, data=body, headers=headers, allow_redirects=False) as answer:
            rest = ANSWER_LIMIT_BYTES
            try:
                while rest > 0 and (chunk := await answer.content.read(rest)):
                    rest -= len(chunk)
            except (aiohttp.ClientError, TimeoutError):
                rest = 0  # the status is what counts
            if rest <= 0:
                answer.close()
            return answer.status

    async def close(self) -> None:
        await self._session.close()
        await asyncio.sleep(0)


def event_url(address: str, event: str) -> str:
    """The address with the event's name as its last parameter (WuKongIM breaks addresses that have a `?` already)."""
    base, hash_, fragment = address.partition("#")
    return f"{base}{'&' if '?' in base else '?'}event={event}{hash_}{fragment}"
