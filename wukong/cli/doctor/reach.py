"""Whether the back ends of the configuration can be reached. Connects and says nothing: no event is sent for a test."""

import asyncio
import ssl
from typing import Final, NamedTuple
from urllib.parse import urlsplit

from wukong.cli.doctor.finding import ERROR, OK, Finding
from wukong.config import Config

TIMEOUT_S: Final = 3.0
_CONSEQUENCE: Final = {
    "webhook": "events wait on disk until it can be, and are dropped above wukong.webhookBacklogBytes",
    "datasource": "lists that come from it stay as they were",
}


class Target(NamedTuple):
    """check: webhook or datasource. host is shown; user information and query of a URL may be secrets and are not."""

    check: str
    key: str
    host: str
    port: int
    tls: bool


def targets(config: Config) -> list[Target]:
    found = []
    if config.webhook.grpc_addr:
        host, _, port = config.webhook.grpc_addr.rpartition("://")[2].rpartition(":")
        found.append(Target("webhook", "webhook.grpcAddr", host.strip("[]"), int(port) if port.isdigit() else 0, False))
    elif config.webhook.http_addr:
        found.append(_of_url("webhook", "webhook.httpAddr", config.webhook.http_addr))
    if config.agent.webhook_http_addr:
        found.append(_of_url("webhook", "agent.webhook.httpAddr", config.agent.webhook_http_addr))
    if config.datasource.addr:
        found.append(_of_url("datasource", "datasource.addr", config.datasource.addr))
    return found


def _of_url(check: str, key: str, url: str) -> Target:
    parts = urlsplit(url)
    tls = parts.scheme == "https"
    return Target(check, key, parts.hostname or "", parts.port or (443 if tls else 80), tls)


async def look_at_back_ends(config: Config) -> list[Finding]:
    return list(await asyncio.gather(*(_try(each) for each in targets(config))))


async def _try(target: Target) -> Finding:
    try:
        async with asyncio.timeout(TIMEOUT_S):
            _, writer = await asyncio.open_connection(target.host, target.port, ssl=target.tls or None)
            writer.close()
    except (OSError, TimeoutError, ValueError) as error:
        return judge(target, error)
    return judge(target, None)


def judge(target: Target, error: Exception | None) -> Finding:
    where = f"{target.host}:{target.port} ({target.key})"
    if error is None:
        return Finding(target.check, OK, f"{where} can be reached")
    text = f"the {target.check} at {where} is unreachable: {reason(error)}; {_CONSEQUENCE[target.check]}"
    return Finding(target.check, ERROR, text, "start it, correct the address, or open the way (firewall, DNS, proxy)")


def reason(error: Exception) -> str:
    if isinstance(error, TimeoutError):
        return f"no answer in {TIMEOUT_S:g} s"
    if isinstance(error, ConnectionRefusedError):
        return "nobody listens there"
    if isinstance(error, ssl.SSLError):
        return f"TLS: {error.reason or error}"
    return (error.strerror if isinstance(error, OSError) else "") or str(error) or type(error).__name__
