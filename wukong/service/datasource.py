"""The business back end's list of system accounts, asked for and kept in the log. http-api.md section 17.

Of the five questions that WuKongIM knows only `getSystemUIDs` is ever asked there, so only that one is here. One node
asks, the one that leads slot 0: at start (or when it comes to lead) and then again and again. What it hears replaces
what was heard before; what was added over the API is another list. While no answer comes the last one counts.
"""

import asyncio
import logging
from collections.abc import Callable
from typing import Protocol

import aiohttp
import msgspec

from wukong.errors import RequestRefused, Unavailable
from wukong.limits import MIB

log = logging.getLogger(__name__)

ASK_TIMEOUT_S = 10.0
ANSWER_BYTES = MIB
RETRY_S = 1.0
# How soon a node notices that it came to lead.
LEAD_POLL_S = 1.0

_QUESTION = b'{"cmd":"getSystemUIDs","data":{}}'
_HEADERS = {"Content-Type": "application/json"}
_decode = msgspec.json.Decoder(list[str] | None).decode


class DatasourceFailed(Exception):
    """No answer, or none that can be used; the text says why, for the log."""


class SystemAccounts(Protocol):
    async def name_system_uids(self, uids: list[str]) -> bool: ...


class Datasource:
    """leads: whether this node is the one that asks. refresh_s: from one answer to the next question; after a failure
    RETRY_S, then twice as long each time, up to this.

    failures: questions without a usable answer. answers: those with one."""

    def __init__(self, users: SystemAccounts, url: str, *, leads: Callable[[], bool], refresh_s: float) -> None:
        self._users = users
        self._url = url
        self._leads = leads
        self._refresh_s = refresh_s
        self.answers = 0
        self.failures = 0

    async def run(self) -> None:
        """Ask until cancelled."""
        timeout = aiohttp.ClientTimeout(total=ASK_TIMEOUT_S)
        async with aiohttp.ClientSession(timeout=timeout) as session:
            while True:
                await self._until(self._leads)
                failed = 0
                while self._leads():
                    failed = await self._round(session, failed)
                    wait_s = min(self._refresh_s, RETRY_S * 2 ** min(failed - 1, 30)) if failed else self._refresh_s
                    await self._until(lambda: not self._leads(), wait_s)

    async def _until(self, condition: Callable[[], bool], limit_s: float | None = None) -> None:
        """Nobody tells when leadership changes, and asking costs nothing."""
        end = None if limit_s is None else asyncio.get_running_loop().time() + limit_s
        while not condition():
            left_s = LEAD_POLL_S if end is None else end - asyncio.get_running_loop().time()
            if left_s <= 0:
                return
            await asyncio.sleep(min(LEAD_POLL_S, left_s))

    async def _round(self, session: aiohttp.ClientSession, failed: int) -> int:
        """One question; how many in a row have failed. Of those in a row only the first is worth a line in the log."""
        try:
            uids = await ask(session, self._url)
            changed = await self._users.name_system_uids(uids)
        except (DatasourceFailed, RequestRefused, Unavailable) as failure:
            self.failures += 1
            if not failed:
                log.warning(
                    "datasource.addr: %s; the system accounts stay as they were, and it is asked again", failure
                )
            return failed + 1
        except Exception:
            # A fault of ours: it must not end the asking.
            log.exception("datasource.addr")
            return failed + 1
        self.answers += 1
        if failed or changed:
            log.info("datasource.addr names %d system accounts", len(uids))
        return 0


async def ask(session: aiohttp.ClientSession, url: str) -> list[str]:
    """The system accounts. null is an empty list, as Go back ends write one. Raises DatasourceFailed."""
    try:
        async with session.post(url, data=_QUESTION, headers=_HEADERS, allow_redirects=False) as answer:
            if answer.status != 200:
                raise DatasourceFailed(f"answered HTTP {answer.status}")
            body = await answer.content.readexactly(ANSWER_BYTES + 1)
    except asyncio.IncompleteReadError as whole:
        body = whole.partial
    except TimeoutError:
        raise DatasourceFailed(f"did not answer within {ASK_TIMEOUT_S:.0f} s") from None
    except (aiohttp.ClientError, OSError) as error:
        raise DatasourceFailed(f"cannot be asked: {error}") from None
    if len(body) > ANSWER_BYTES:
        raise DatasourceFailed(f"answered more than {ANSWER_BYTES} bytes")
    try:
        return _decode(body) or []
    except msgspec.DecodeError:
        raise DatasourceFailed("answered something else than an array of uids") from None
