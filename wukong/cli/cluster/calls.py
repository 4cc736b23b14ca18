"""Asking a cluster: any of the given nodes will do."""

from collections.abc import Sequence
from types import TracebackType
from typing import Any, Final, Self

import msgspec

from wukong.cli.cluster.status import ClusterStatus
from wukong.client.admin import AdminClient
from wukong.client.errors import ApiRefused, ApiUnavailable

TIMEOUT_S: Final = 15.0
OK: Final = 200
NOT_FOUND: Final = 404


class ClusterClient:
    """Calls go to one node until it fails, then to the next. Every call may be repeated: it says what shall be, not
    what to do. Raises ApiUnavailable when none answers, ApiRefused when one says no."""

    def __init__(self, urls: Sequence[str], token: str) -> None:
        if not urls:
            raise ValueError("--api is empty; give a node's address")
        self._admins = [AdminClient(url, token or None, timeout_s=TIMEOUT_S) for url in urls]

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for admin in self._admins:
            await admin.close()

    async def status(self) -> ClusterStatus:
        path = "/cluster/status"
        content = await self._call("GET", path)
        try:
            return msgspec.json.decode(content, type=ClusterStatus, strict=False)
        except msgspec.MsgspecError as fault:
            raise ApiUnavailable(self._admins[0].base_url, path, f"answer cannot be read: {fault}") from fault

    async def ask(self, path: str, body: dict[str, Any]) -> None:  # any: JSON
        answer = msgspec.json.decode(await self._call("POST", path, body))
        status = answer.get("status", OK) if isinstance(answer, dict) else OK
        if status != OK:
            raise ApiRefused(path, OK, status, str(answer.get("msg", "")))

    async def _call(self, method: str, path: str, body: object = None) -> bytes:
        last: ApiUnavailable | None = None
        for _ in range(len(self._admins)):
            try:
                return await self._admins[0].call(method, path, body=body)
            except ApiUnavailable as fault:
                last = last or fault
                self._admins.append(self._admins.pop(0))
            except ApiRefused as refusal:
                if refusal.http_status == NOT_FOUND:
                    raise ApiRefused(path, NOT_FOUND, NOT_FOUND, "this server knows no clusters") from refusal
                raise
        assert last is not None
        raise last
