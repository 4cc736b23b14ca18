"""The HTTP API as a back end calls it: one method per call that scenarios need, answers checked.

Every method raises ApiError for an answer that is no success, and aiohttp's errors when there is none (the outcome of
a change is then unknown).
"""

import base64
import contextlib
import itertools
from collections.abc import AsyncIterator, Iterable, Sequence
from typing import Any

import aiohttp

GROUP = 2

TIMEOUT_S = 60.0
_CONNECTIONS = 64
HISTORY_PAGE = 10_000
MEMBERS_PAGE = 1_000


class ApiError(AssertionError):
    """An answer other than the success that was expected."""

    def __init__(self, path: str, status: int, body: str) -> None:
        super().__init__(f"{path}: HTTP {status} {body[:500]}")
        self.status = status
        self.body = body


NO_ANSWER = (aiohttp.ClientError, TimeoutError, ConnectionError)
"""What a call raises whose outcome is unknown."""


class Api:
    """fence_slots: how many slots have an order of their own, so that a fence has to go through each (wire.fence); on a
    single node all have one."""

    def __init__(self, url: str, session: aiohttp.ClientSession, *, fence_slots: int = 1) -> None:
        self.url = url
        self.fence_slots = fence_slots
        self._session = session

    def base_url(self) -> str:
        """Whom the next call goes to."""
        return self.url

    async def post(self, path: str, body: Any = None) -> Any:
        async with self._session.post(self.base_url() + path, json=body) as answer:
            return await self._read(path, answer)

    async def get(self, path: str, **query: str | int) -> Any:
        async with self._session.get(self.base_url() + path, params=query) as answer:
            return await self._read(path, answer)

    @staticmethod
    async def _read(path: str, answer: aiohttp.ClientResponse) -> Any:
        text = await answer.text()
        if answer.status != 200:
            raise ApiError(path, answer.status, text)
        body = await answer.json(content_type=None)
        if isinstance(body, dict) and body.get("status", 200) != 200:
            raise ApiError(path, answer.status, text)
        return body

    # -- channels

    async def create(
        self, channel_id: str, uids: Iterable[str] = (), *, kind: int = GROUP, reset: bool = False, **flags: int
    ) -> None:
        await self.post(
            "/channel",
            {"channel_id": channel_id, "channel_type": kind, "subscribers": list(uids), "reset": int(reset), **flags},
        )

    async def add(self, channel_id: str, uids: Iterable[str], *, kind: int = GROUP, reset: bool = False) -> None:
        await self.post(
            "/channel/subscriber_add",
            {"channel_id": channel_id, "channel_type": kind, "subscribers": list(uids), "reset": int(reset)},
        )

    async def remove(self, channel_id: str, uids: Iterable[str], *, kind: int = GROUP) -> None:
        body = {"channel_id": channel_id, "channel_type": kind, "subscribers": list(uids)}
        await self.post("/channel/subscriber_remove", body)

    async def remove_all(self, channel_id: str, *, kind: int = GROUP) -> None:
        await self.post("/channel/subscriber_remove_all", {"channel_id": channel_id, "channel_type": kind})

    async def change_list(self, name: str, channel_id: str, uids: Iterable[str] = (), *, kind: int = GROUP) -> None:
        """name: what follows /channel/, like blacklist_add."""
        body = {"channel_id": channel_id, "channel_type": kind, "uids": list(uids)}
        await self.post(f"/channel/{name}", body)

    async def members(self, channel_id: str, *, kind: int = GROUP) -> list[str]:
        """All members, as the API lists them, page by page."""
        found: list[str] = []
        cursor = ""
        while True:
            page = await self.get(
                "/channel/subscribers", channel_id=channel_id, channel_type=kind, cursor=cursor, limit=MEMBERS_PAGE
            )
            found += page["subscribers"]
            cursor = page["next"]
            if not cursor:
                return found

    # -- messages

    async def send(
        self,
        from_uid: str,
        channel_id: str,
        payload: bytes,
        *,
        kind: int = GROUP,
        sync_once: bool = False,
        no_persist: bool = False,
        client_msg_no: str = "",
    ) -> dict[str, Any]:
        """The answer's data."""
        body = {
            "header": {"sync_once": int(sync_once), "no_persist": int(no_persist), "red_dot": 1},
            "from_uid": from_uid,
            "channel_id": channel_id,
            "channel_type": kind,
            "payload": base64.b64encode(payload).decode(),
            **({"client_msg_no": client_msg_no} if client_msg_no else {}),
        }
        answer = await self.post("/message/send", body)
        data: dict[str, Any] = answer["data"]
        return data

    async def send_each(self, from_uid: str, uids: Sequence[str], payload: bytes, *, no_persist: bool = True) -> None:
        """A message to each person; unless stored, pushed only."""
        answer = await self.post(
            "/message/sendbatch",
            {
                "header": {"no_persist": int(no_persist)},
                "from_uid": from_uid,
                "subscribers": list(uids),
                "payload": base64.b64encode(payload).decode(),
            },
        )
        assert answer["fail_uids"] == []

    async def history(self, uid: str, channel_id: str, *, kind: int = GROUP, first: int = 1) -> list[dict[str, Any]]:
        """Every stored message from seq `first` on, ascending, over as many pages as it takes."""
        found: list[dict[str, Any]] = []
        while True:
            page = await self.post(
                "/channel/messagesync",
                {
                    "login_uid": uid,
                    "channel_id": channel_id,
                    "channel_type": kind,
                    "start_message_seq": first,
                    "pull_mode": 1,
                    "limit": HISTORY_PAGE,
                },
            )
            found += page["messages"]
            if not page["more"] or not page["messages"]:
                return found
            first = page["messages"][-1]["message_seq"] + 1

    async def conversations(
        self, uid: str, *, msg_count: int = 100, only_unread: bool = False, last_msg_seqs: str = ""
    ) -> dict[str, dict[str, Any]]:
        """Conversations by channel id."""
        body = {"uid": uid, "msg_count": msg_count, "only_unread": int(only_unread), "last_msg_seqs": last_msg_seqs}
        answer = await self.post("/conversation/sync", body)
        return {each["channel_id"]: each for each in answer or []}

    async def commands(self, uid: str, *, limit: int = 1_000) -> list[dict[str, Any]]:
        """Offline commands, not acknowledged yet."""
        found: list[dict[str, Any]] = await self.post("/message/sync", {"uid": uid, "limit": limit})
        return found

    async def acknowledge_commands(self, uid: str, last_seq: int) -> None:
        await self.post("/message/syncack", {"uid": uid, "last_message_seq": last_seq})

    # -- users

    async def online(self, uids: Sequence[str]) -> list[dict[str, Any]]:
        """One entry per live connection."""
        found: list[dict[str, Any]] | None = await self.post("/user/onlinestatus", list(uids))
        return found or []


class SpreadApi(Api):
    """Every call goes to the next node. url: of the first, which names the cluster."""

    def __init__(self, urls: Sequence[str], session: aiohttp.ClientSession, *, fence_slots: int) -> None:
        super().__init__(urls[0], session, fence_slots=fence_slots)
        self._urls = itertools.cycle(urls)

    def base_url(self) -> str:
        return next(self._urls)


def payload_of(message: dict[str, Any]) -> bytes:
    return base64.b64decode(message["payload"])


@contextlib.asynccontextmanager
async def open_api(*urls: str, fence_slots: int = 1) -> AsyncIterator[Api]:
    """One server's, or spread over several; see Api for fence_slots."""
    connector = aiohttp.TCPConnector(limit=_CONNECTIONS)
    timeout = aiohttp.ClientTimeout(total=TIMEOUT_S)
    async with aiohttp.ClientSession(connector=connector, timeout=timeout) as session:
        if len(urls) == 1:
            yield Api(urls[0], session, fence_slots=fence_slots)
        else:
            yield SpreadApi(urls, session, fence_slots=fence_slots)
