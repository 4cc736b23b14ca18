"""A server that answers like WuKongIM v2.2.5 where an import asks, with data made from a seed.

Built from http-api.md (3.5, 8.10, 9.8, 11, 13) with the oddities of its trap list: the first row of a page has a zeroed
header (24), lists that are empty may be null, soft failures are HTTP 200 with another status, a conversation record of
a bare uid (14), positions of 2^64 - 1 (41), ids that do not rise in a channel. `python -m tests.compat.old_server`
serves one.
"""

import argparse
import asyncio
from collections.abc import Awaitable, Callable
from random import Random
from typing import Any, NamedTuple
from zlib import crc32

import msgspec
from aiohttp import web

Key = tuple[int, str]
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

PERSON, GROUP, CUSTOMER, COMMUNITY, INFO, LIVE, AGENT = 1, 2, 3, 4, 6, 9, 11
EPOCH_MS = 1_288_834_974_657
FIRST_S = 1_760_000_000
MAX_CONVERSATIONS = 1_000


class Header(msgspec.Struct):
    no_persist: int = 0
    red_dot: int = 0
    sync_once: int = 0


ZEROED = Header()


class Message(msgspec.Struct):
    header: Header
    setting: int
    message_id: int
    message_idstr: str
    client_msg_no: str
    message_seq: int
    from_uid: str
    channel_id: str
    channel_type: int
    expire: int
    timestamp: int
    payload: bytes
    topic: str | msgspec.UnsetType = msgspec.UNSET


class Talk(msgspec.Struct):
    read: int
    deleted: int = 0


class Size(NamedTuple):
    """members: of all channels together."""

    channels: int
    members: int
    messages: int
    users: int


SMALL = Size(60, 600, 5_000, 150)
LARGE = Size(1_000, 10_000, 100_000, 2_500)


def joined(a: str, b: str) -> str:
    """http-api.md 3.3, with its tie: then the order of the arguments counts."""
    return f"{a}@{b}" if crc32(a.encode()) > crc32(b.encode()) else f"{b}@{a}"


class OldData:
    """What the server holds. records: created_at of channels that have an info record."""

    def __init__(self) -> None:
        self.log: dict[Key, list[Message]] = {}
        self.members: dict[Key, list[str]] = {}
        self.denied: dict[Key, list[str]] = {}
        self.allowed: dict[Key, list[str]] = {}
        self.banned: set[Key] = set()
        self.talks: dict[str, dict[Key, Talk]] = {}
        self.system_uids: list[str] = []

    def append(
        self, key: Key, from_uid: str, payload: bytes, *, number: str, second: int, message_id: int, red_dot: int = 1
    ) -> None:
        log = self.log.setdefault(key, [])
        seq = len(log) + 1
        kind, channel_id = key
        shown = channel_id
        if kind == PERSON:
            # The last part that is not the sender.
            shown = [part for part in channel_id.split("@") if part != from_uid][-1]
        topic: str | msgspec.UnsetType = "weather" if seq % 97 == 0 else msgspec.UNSET
        log.append(
            Message(
                Header(0, red_dot),
                0x80 if seq % 11 == 0 else 0,
                message_id,
                str(message_id),
                number,
                seq,
                from_uid,
                shown,
                kind,
                3_600 if seq % 13 == 0 else 0,
                second,
                payload,
                topic,
            )
        )

    def unread(self, uid: str, key: Key) -> tuple[int, int]:
        """(unread, read position) as 11.1, step 8, says."""
        log, talk = self.log.get(key, []), self.talks[uid].get(key, Talk(0))
        last = len(log)
        if log and log[-1].from_uid == uid:
            return 0, last
        unread, read = max(0, last - talk.read), talk.read
        own = max((m.message_seq for m in log if m.from_uid == uid), default=0)
        if own > read and last - own < unread:
            return last - own, own
        return unread, read


def make(size: Size, seed: int) -> OldData:
    random = Random(seed)
    data = OldData()
    uids = [f"u{n}" if n % 50 else f"用户{n}" for n in range(size.users)]
    data.system_uids = ["robot"]
    keys: list[Key] = []
    for n in range(size.channels):
        if n % 10 < 3:
            a, b = random.sample(uids, 2)
            keys.append((PERSON, joined(a, "____system" if n == 0 else b)))
        elif n == 8:
            keys.append((CUSTOMER, f"{uids[3]}|desk/1"))
        elif n == 18:
            keys.append((AGENT, f"{uids[4]}@{uids[5]}"))
        else:
            kind = (GROUP, GROUP, GROUP, COMMUNITY, INFO, LIVE)[n % 6]
            keys.append((kind, f"g{n}" if n % 7 else f"group {n}/群"))
    keys = list(dict.fromkeys(keys))
    groups = [key for key in keys if key[0] not in (PERSON, AGENT)]
    for at, key in enumerate(groups):
        count = size.members // len(groups) + (1 if at < size.members % len(groups) else 0)
        data.members[key] = sorted(random.sample(uids, min(count, len(uids))))
    _write(data, keys, size.messages, random)
    _talk(data, keys, uids, random)
    for key in groups:
        if random.random() < 0.1:
            data.denied[key] = random.sample(uids, 2)
        if random.random() < 0.05:
            data.allowed[key] = data.members[key][:3]
        if random.random() < 0.03:
            data.banned.add(key)
    for uid in random.sample(uids, len(uids) // 10):
        data.denied[PERSON, uid] = random.sample(uids, 2)
        data.allowed[PERSON, uid] = random.sample(uids, 1)
    data.banned.add((PERSON, uids[-1]))
    return data


def _write(data: OldData, keys: list[Key], messages: int, random: Random) -> None:
    second, step = FIRST_S, 0
    # A few long logs, many short ones.
    weights = [1.0 / (1 + at % 40) for at in range(len(keys))]
    chosen = random.choices(keys[:-1], weights[:-1], k=messages)
    for n, key in enumerate(chosen):
        second += random.random() < 0.3
        step = (step + 1) % 4096
        # Two nodes; ids do not rise in a channel, and a second may go back.
        node = random.choice((1_001, 1_002))
        milliseconds = second * 1_000 + random.randrange(1_000) - EPOCH_MS
        if key[0] in (PERSON, AGENT):
            senders = key[1].split("@")
        else:
            senders = data.members[key] or ["nobody"]
        sender = random.choice(senders) if random.random() < 0.97 else ""
        sender = "" if sender == "____system" else sender
        payload = b'{"type":1,"content":"%d %b"}' % (n, random.randbytes(8).hex().encode())
        number = f"no-{n}" if n % 31 else "no-twice"
        data.append(
            key,
            sender,
            payload,
            number=number,
            second=second - random.randrange(2),
            message_id=milliseconds << 22 | node << 12 | step,
            red_dot=int(random.random() < 0.8),
        )


def _talk(data: OldData, keys: list[Key], uids: list[str], random: Random) -> None:
    data.talks = {uid: {} for uid in uids}
    for key in keys:
        last = len(data.log.get(key, []))
        kind, channel_id = key
        if kind == LIVE:
            continue
        if kind == PERSON:
            both = [uid for uid in channel_id.split("@") if uid in data.talks]
            # One of both at least: a chat that nobody lists is found by no import, and the page says so.
            people = [uid for uid in both if random.random() < 0.97] or both[:1]
        elif kind == AGENT:
            people = []
        else:
            people = list(data.members[key])
            if random.random() < 0.2:
                # Left in a reset; the conversation stayed.
                people.append(random.choice(uids))
        for uid in people:
            talk = Talk(random.choice((0, last, random.randint(0, last))))
            if random.random() < 0.06:
                talk.deleted = random.choice((last, max(0, last - 3)))
            data.talks[uid][key] = talk
    # Slips of the old server.
    data.talks[uids[0]][PERSON, uids[0]] = Talk(0)
    for talks in list(data.talks.values())[1:4]:
        for key, talk in talks.items():
            if not data.log.get(key):
                talk.read = (1 << 64) - 1


class OldServer:
    """token: managerToken. cluster: whether the administrative routes are there. fail_every: so many requests until one
    is answered with 500 and an empty body; slow_every: with an answer that takes slow_s. calls: per route."""

    def __init__(
        self,
        data: OldData,
        *,
        token: str = "",
        cluster: bool = True,
        fail_every: int = 0,
        slow_every: int = 0,
        slow_s: float = 0.2,
    ) -> None:
        self.data = data
        self.calls: dict[str, int] = {}
        self.url = ""
        self._token = token
        self.fail_every = fail_every
        self._slow_every = slow_every
        self._slow_s = slow_s
        self._count = 0
        self._encode = msgspec.json.Encoder().encode
        app = web.Application(middlewares=[self._around])
        app.add_routes(
            [
                web.get("/health", self._health),
                web.get("/user/systemuids", self._system_uids),
                web.post("/channel/messagesync", self._messages),
                web.post("/conversation/channels", self._channels),
                web.post("/conversation/sync", self._sync),
                web.post("/conversation/syncByChannels", self._by_channels),
            ]
        )
        if cluster:
            app.add_routes(
                [
                    web.get("/cluster/channels/{id}/{type}/{what}", self._uids),
                    web.get("/cluster/channels", self._all_channels),
                    web.get("/cluster/users", self._all_users),
                ]
            )
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.2)

    async def __aenter__(self) -> "OldServer":
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", 0).start()
        self.url = f"http://127.0.0.1:{self._runner.addresses[0][1]}"
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._runner.cleanup()

    @web.middleware
    async def _around(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        if self._token and request.headers.get("token") != self._token:
            return web.Response(status=401)
        self._count += 1
        self.calls[request.path] = self.calls.get(request.path, 0) + 1
        if self.fail_every and self._count % self.fail_every == 0:
            return web.Response(status=500)
        if self._slow_every and self._count % self._slow_every == 0:
            await asyncio.sleep(self._slow_s)
        try:
            return await handler(request)
        except web.HTTPNotFound:
            return web.Response(status=404, text="404 page not found")

    def _answer(self, value: object) -> web.Response:
        return web.Response(body=self._encode(value), content_type="application/json")

    async def _body(self, request: web.Request) -> dict[str, Any]:
        found: dict[str, Any] = msgspec.json.decode(await request.read())
        return found

    async def _health(self, request: web.Request) -> web.Response:
        return self._answer({"status": "ok"})

    async def _system_uids(self, request: web.Request) -> web.Response:
        return self._answer(self.data.system_uids or None)

    async def _messages(self, request: web.Request) -> web.Response:
        body = await self._body(request)
        login, shown, kind = body.get("login_uid", ""), body.get("channel_id", ""), body.get("channel_type", 0)
        if not shown or not login:
            return web.Response(status=400, body=self._encode({"msg": "login_uid不能为空！", "status": 400}))
        key = (kind, joined(login, shown) if kind == PERSON else shown)
        log = self.data.log.get(key, [])
        start, end, limit = body.get("start_message_seq", 0), body.get("end_message_seq", 0), body.get("limit", 0)
        if start == 0 and end == 0:
            rows = log[-limit:] if limit else []
        elif body.get("pull_mode") == 1:
            rows = [m for m in log[max(0, start - 1) : start - 1 + limit] if not end or m.message_seq < end]
        else:
            low = max(end, start - limit)
            rows = log[low:start] if not end or end <= start else []
        if rows:
            rows = [msgspec.structs.replace(rows[0], header=ZEROED), *rows[1:]]
        page = {"start_message_seq": start, "end_message_seq": end, "more": int(len(rows) >= limit), "messages": rows}
        return self._answer(page)

    def _shown(self, uid: str, key: Key) -> str:
        kind, channel_id = key
        if kind != PERSON:
            return channel_id
        first, _, second = channel_id.partition("@")
        return second if first == uid else first

    def _selected(self, uid: str) -> list[Key]:
        return list(self.data.talks.get(uid, {}))[:MAX_CONVERSATIONS]

    async def _channels(self, request: web.Request) -> web.Response:
        uid = (await self._body(request))["uid"]
        rows = [{"channel_id": channel_id, "channel_type": kind} for kind, channel_id in self._selected(uid)]
        return self._answer(rows or None)

    def _conversation(self, uid: str, key: Key, recents: list[Message]) -> dict[str, object]:
        unread, read = self.data.unread(uid, key)
        newest = recents[0] if recents else None
        return {
            "channel_id": self._shown(uid, key),
            "channel_type": key[0],
            "unread": unread,
            "timestamp": newest.timestamp if newest else 0,
            "last_msg_seq": newest.message_seq if newest else 0,
            "last_client_msg_no": newest.client_msg_no if newest else "",
            "offset_msg_seq": 0,
            "readed_to_msg_seq": min(read, 0xFFFF_FFFF),
            "version": newest.timestamp * 1_000_000_000 if newest else 0,
            "recents": recents,
        }

    def _recents(self, key: Key, deleted: int, count: int) -> list[Message]:
        rows = self.data.log.get(key, [])[deleted:][-count:]
        rows = rows[::-1]
        return [*rows[:-1], msgspec.structs.replace(rows[-1], header=ZEROED)] if rows else []

    async def _sync(self, request: web.Request) -> web.Response:
        body = await self._body(request)
        uid, count = body["uid"], body.get("msg_count", 0)
        found = []
        for key in self._selected(uid) if count else []:
            recents = self._recents(key, self.data.talks[uid][key].deleted, count)
            if recents and self._shown(uid, key) != "____system" and "@" in key[1] + "@" * (key[0] != PERSON):
                found.append(self._conversation(uid, key, recents))
        return self._answer(found)

    async def _by_channels(self, request: web.Request) -> web.Response:
        body = await self._body(request)
        uid = body["uid"]
        found = []
        for row in body["channels"]:
            kind, shown = row["channel_type"], row["channel_id"]
            key = (kind, joined(uid, shown) if kind == PERSON else shown)
            found.append(self._conversation(uid, key, self._recents(key, 0, body.get("msg_count") or 15)))
        return self._answer(found)

    async def _uids(self, request: web.Request) -> web.Response:
        key = (int(request.match_info["type"]), request.match_info["id"])
        lists = {"subscribers": self.data.members, "denylist": self.data.denied, "allowlist": self.data.allowed}
        what = request.match_info["what"]
        if what not in lists:
            raise web.HTTPNotFound
        return self._answer(lists[what].get(key, []))

    def _page(self, request: web.Request, rows: list[dict[str, object]]) -> web.Response:
        """Newest first, behind the cursor."""
        offset, limit = int(request.query.get("offset_created_at", 0)), int(request.query.get("limit", 20))
        rows = [{**row, "created_at": 1_000_000 - at} for at, row in enumerate(rows)]
        rows = [row for row in rows if not offset or row["created_at"] < offset]  # type: ignore[operator]
        return self._answer({"total": 0, "more": int(len(rows) > limit), "data": rows[:limit] or None})

    async def _all_channels(self, request: web.Request) -> web.Response:
        keys = dict.fromkeys([*self.data.members, *sorted(self.data.banned)])
        rows: list[dict[str, object]] = [
            {
                "id": at,
                "channel_id": channel_id,
                "channel_type": kind,
                "ban": int((kind, channel_id) in self.data.banned),
                "disband": 0,
                "subscriber_count": len(self.data.members.get((kind, channel_id), [])),
            }
            for at, (kind, channel_id) in enumerate(keys)
        ]
        return self._page(request, rows)

    async def _all_users(self, request: web.Request) -> web.Response:
        return self._page(request, [{"id": at, "uid": uid} for at, uid in enumerate(self.data.talks)])


async def _serve(options: argparse.Namespace) -> None:
    size = LARGE if options.large else SMALL
    data = make(size, options.seed)
    async with OldServer(data) as server:
        print(server.url, flush=True)
        await asyncio.Event().wait()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--large", action="store_true")
    parser.add_argument("--seed", type=int, default=1)
    asyncio.run(_serve(parser.parse_args()))


if __name__ == "__main__":
    main()
