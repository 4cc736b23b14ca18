"""What the HTTP API says: is the node well, what is wrong with its cluster, and do the clocks agree?"""

import asyncio
import time
from collections.abc import Mapping, Sequence
from email.utils import parsedate_to_datetime
from typing import Any, Final, NamedTuple

import aiohttp
import msgspec

from wukong import __version__
from wukong.cli.cluster.status import LAG_NOTICE_ENTRIES, ClusterStatus
from wukong.cli.doctor.datadir import Identity
from wukong.cli.doctor.finding import ERROR, NOTE, OK, WARNING, Finding, time_text
from wukong.cli.doctor.reach import reason

API: Final = "api"
CLUSTER: Final = "cluster"
CLOCK: Final = "clock"
VERSIONS: Final = "versions"

TIMEOUT_S: Final = 5.0
ANSWER_LIMIT_BYTES: Final = 8 * 1024 * 1024
NODES_LIMIT: Final = 16
"""APIs that are asked; of a larger cluster the others are not."""
# A Date header tells whole seconds.
CLOCK_NOTICE_S: Final = 2.5
# From there on a node no longer goes by its own clock (cluster/clocks.py).
CLOCK_LIMIT_S: Final = 10.0
_OK_STATUS: Final = 200
_UNAUTHORIZED: Final = 401


class Told(NamedTuple):
    """What one API told. unreached: "" if it answered. health: why it serves no clients, "" if it does. ahead_s: of its
    clock before ours, None if it told no time. bodies: route -> what it answered with 200, as it came."""

    url: str
    unreached: str = ""
    unauthorized: bool = False
    health: str = ""
    ahead_s: float | None = None
    version: str = ""
    status: ClusterStatus | None = None
    bodies: Mapping[str, bytes] = {}


async def ask(url: str, token: str) -> Told:
    bodies: dict[str, bytes] = {}
    timeout = aiohttp.ClientTimeout(total=TIMEOUT_S)
    headers = {"token": token} if token else {}
    try:
        async with aiohttp.ClientSession(timeout=timeout, headers=headers) as session:
            began, now = time.monotonic(), time.time()
            http_status, date, body = await _get(session, url, "/health")
            middle = now + (time.monotonic() - began) / 2
            if http_status == _UNAUTHORIZED:
                return Told(url, unauthorized=True, ahead_s=_ahead_s(date, middle))
            bodies["/health"] = body
            for path in ("/cluster/status", "/varz", "/metrics"):
                path_status, _, answer = await _get(session, url, path)
                if path_status == _OK_STATUS:
                    bodies[path] = answer
    except (aiohttp.ClientError, OSError, TimeoutError, ValueError) as error:
        if isinstance(error, aiohttp.ClientConnectorError) and isinstance(error.os_error, OSError):
            error = error.os_error
        return Told(url, unreached=reason(error), bodies=bodies)
    health = "" if http_status == _OK_STATUS else _text(body, "message") or f"it answered {http_status}"
    return Told(
        url,
        health=health,
        ahead_s=_ahead_s(date, middle),
        version=_text(bodies.get("/varz", b""), "version"),
        status=_status(bodies.get("/cluster/status", b"")),
        bodies=bodies,
    )


async def _get(session: aiohttp.ClientSession, url: str, path: str) -> tuple[int, str, bytes]:
    async with session.get(url + path) as answer:
        content = bytearray()
        async for chunk in answer.content.iter_any():
            content += chunk
            if len(content) > ANSWER_LIMIT_BYTES:
                raise ValueError(f"{path}: answer over {ANSWER_LIMIT_BYTES} bytes")
        return answer.status, answer.headers.get("Date", ""), bytes(content)


def _ahead_s(date: str, now_s: float) -> float | None:
    """A Date header is cut to whole seconds, so half of one is what is missing on average."""
    try:
        return parsedate_to_datetime(date).timestamp() + 0.5 - now_s
    except (ValueError, TypeError):
        return None


def _text(body: bytes, key: str) -> str:
    try:
        found: Any = msgspec.json.decode(body)  # any: JSON
    except msgspec.DecodeError:
        return ""
    return str(found.get(key, "")) if isinstance(found, dict) else ""


def _status(body: bytes) -> ClusterStatus | None:
    try:
        return msgspec.json.decode(body, type=ClusterStatus, strict=False)
    except msgspec.MsgspecError:
        return None


async def ask_all(urls: Sequence[str], token: str) -> list[Told]:
    """The given ones, and then the others that they name; at most NODES_LIMIT."""
    told = list(await asyncio.gather(*(ask(url, token) for url in dict.fromkeys(urls[:NODES_LIMIT]))))
    known = {each.url for each in told} | {_url_of(each.status, each.status.node) for each in told if each.status}
    named = {
        node.api_url.rstrip("/"): None
        for each in told
        if each.status is not None
        for node in each.status.nodes
        if node.connected and node.api_url and node.api_url.rstrip("/") not in known
    }
    told += await asyncio.gather(*(ask(url, token) for url in list(named)[: max(0, NODES_LIMIT - len(told))]))
    return told


def _url_of(status: ClusterStatus, node: int) -> str:
    return next((each.api_url.rstrip("/") for each in status.nodes if each.id == node), "")


# -- judging


def judge(told: Sequence[Told], identity: Identity | None, *, stopped: str = "") -> list[Finding]:
    """identity: of this node's data directory, if it is known. stopped: URL of a server that is known not to run."""
    found = [_judge_api(each, stopped=stopped) for each in told]
    found += judge_clocks({each.url: each.ahead_s for each in told if each.ahead_s is not None})
    status = next((each.status for each in told if each.status is not None), None)
    if status is not None:
        found += judge_status(status)
        found += judge_disk(status, identity)
    versions = {each.version.removeprefix("wukong ") for each in told if each.version}
    if status is None or not any(node.version for node in status.nodes):
        found += judge_versions(versions)
    return found


def _judge_api(told: Told, *, stopped: str) -> Finding:
    if told.unauthorized:
        return Finding(API, NOTE, f"{told.url} wants its managerToken; cluster not checked", "--token or WUKONG_TOKEN")
    if told.unreached:
        text = f"{told.url} does not answer: {told.unreached}"
        if told.url == stopped:
            return Finding(API, NOTE, f"{text}, as its server does not run; not checked: health, cluster, clocks")
        return Finding(API, ERROR, text, "start it, or look at its log: it may wait for other nodes")
    if told.health:
        return Finding(API, ERROR, f"{told.url} serves no clients: {told.health}", "look at its log")
    return Finding(API, OK, f"{told.url} is healthy")


def judge_clocks(ahead_s: Mapping[str, float]) -> list[Finding]:
    """ahead_s: of each API's clock before this machine's, give or take a second."""
    off = {url: ahead for url, ahead in ahead_s.items() if abs(ahead) >= CLOCK_NOTICE_S}
    if not off:
        return [Finding(CLOCK, OK, f"agrees with {', '.join(ahead_s)}")] if ahead_s else []
    advice = "run a time service (chrony, ntpd, systemd-timesyncd) on every machine"
    first = next(iter(off.values()))
    if len(off) == len(ahead_s) > 1 and all(abs(ahead - first) < CLOCK_NOTICE_S for ahead in off.values()):
        way = "behind" if first > 0 else "ahead of"
        text = f"clock off: this machine's is {time_text(abs(first))} {way} those of all {len(off)} nodes that answer"
        return [Finding(CLOCK, _clock_level(first), text, advice)]
    return [
        Finding(
            CLOCK,
            _clock_level(ahead),
            f"clock off: {url} is {time_text(abs(ahead))} {'ahead of' if ahead > 0 else 'behind'} this machine",
            advice,
        )
        for url, ahead in off.items()
    ]


def _clock_level(ahead_s: float) -> str:
    return ERROR if abs(ahead_s) >= CLOCK_LIMIT_S else WARNING


def judge_status(status: ClusterStatus) -> list[Finding]:
    found = []
    leaderless = [slot.id for slot in status.slots if not slot.leader]
    if leaderless:
        text = f"{len(leaderless)} of {len(status.slots)} slots have no leader; what belongs there is answered with 503"
        found.append(Finding(CLUSTER, ERROR, text, "bring a majority of the nodes back"))
    members = {member.node for slot in status.slots for member in slot.members}
    voters = {member.node for slot in status.slots for member in slot.members if member.voter}
    for node in status.nodes:
        where = f"node {node.id}" + (f" ({node.addr})" if node.addr else "")
        if node.id in voters and not node.connected:
            advice = "start it, or replace it: wukong cluster replace"
            found.append(Finding(CLUSTER, ERROR, f"missing peer: {where} does not answer", advice))
        elif node.health and node.id in members and node.state != "leaving":
            text = f"{where} serves no clients: {node.health}"
            found.append(Finding(CLUSTER, ERROR, text, "run wukong doctor there, and look at its log"))
        if node.connected and node.lag_entries >= LAG_NOTICE_ENTRIES:
            text = f"{where} is {node.lag_entries:,} entries of the log behind"
            found.append(Finding(CLUSTER, WARNING, text, "wait; if it does not shrink, look at its disk and CPU"))
    if status.settings_differ:
        text = "settings in a node's file differ from the cluster's, which count: " + ", ".join(status.settings_differ)
        found.append(Finding(CLUSTER, WARNING, text, "change the file, or wukong cluster settings adopt"))
    found += judge_versions({node.version for node in status.nodes if node.version})
    if status.job:
        found.append(Finding(CLUSTER, NOTE, f"under way: {status.job}"))
    if all(each.level in (OK, NOTE) for each in found):
        count = len(status.nodes)
        found.append(Finding(CLUSTER, OK, f"{count} node{'s' * (count != 1)}, every slot has a leader"))
    return found


def judge_versions(versions: set[str]) -> list[Finding]:
    """versions: that run."""
    finish = "finish the update: run the same version on every node"
    if len(versions) > 1:
        return [Finding(VERSIONS, WARNING, f"mixed versions run: {', '.join(sorted(versions))}", finish)]
    if versions and versions != {__version__}:
        text = f"mixed versions: the server runs {', '.join(versions)}, this program is {__version__}"
        return [Finding(VERSIONS, WARNING, text, finish)]
    return [Finding(VERSIONS, OK, __version__)] if versions else []


def judge_disk(status: ClusterStatus, identity: Identity | None) -> list[Finding]:
    if identity is None or not identity.disk:
        return []
    known = {node.id: str(node.disk) for node in status.nodes}.get(identity.node_id, "")
    if known in ("", "0", f"{identity.disk:x}"):
        return []
    text = (
        f"the data directory is disk {identity.disk:x}, and the cluster knows node {identity.node_id} by disk {known}: "
        "it is an old one, or another node runs under this number"
    )
    return [Finding(CLUSTER, ERROR, text, "use the right directory; never start a copy of one")]
