"""Calls to the API in tests, and tables of calls with what they answer."""

import json
from typing import Any, NamedTuple

from aiohttp.test_utils import TestClient, TestServer

from tests.service.stack import Stack
from wukong.api.server import ApiOptions, build_app

OK = {"status": 200}


class Answer(NamedTuple):
    """body: the JSON, or the text of another type."""

    status: int
    body: Any
    content_type: str
    headers: dict[str, str]


class Api:
    """`async with`: serves while inside."""

    def __init__(self, stack: Stack, options: ApiOptions | None = None, **parts: Any) -> None:
        """parts: of build_app."""
        self.stack = stack
        self._client = TestClient(TestServer(build_app(stack.use_cases, options or ApiOptions(), **parts)))

    async def __aenter__(self) -> "Api":
        await self._client.start_server()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._client.close()

    async def call(
        self,
        method: str,
        path: str,
        body: Any = None,
        *,
        raw: bytes | None = None,
        headers: dict[str, str] | None = None,
    ) -> Answer:
        data = raw if raw is not None else None if body is None else json.dumps(body).encode()
        async with self._client.request(method, path, data=data, headers=headers) as response:
            content = await response.read()
            content_type = response.headers.get("Content-Type", "")
            shown: Any = json.loads(content) if content_type.startswith("application/json") else content.decode()
            found = {name.lower(): value for name, value in response.headers.items()}
            return Answer(response.status, shown, content_type, found)

    async def post(self, path: str, body: Any = None, *, raw: bytes | None = None) -> Any:
        """The body of an answer with HTTP status 200."""
        answer = await self.call("POST", path, body, raw=raw)
        assert answer.status == 200, answer
        return answer.body

    async def get(self, path: str) -> Any:
        answer = await self.call("GET", path)
        assert answer.status == 200, answer
        return answer.body

    async def refused(self, path: str, body: Any = None, *, raw: bytes | None = None, method: str = "POST") -> str:
        """The text of a refusal in the documented shape."""
        answer = await self.call(method, path, body, raw=raw)
        assert answer.status == 400, answer
        assert answer.body.keys() == {"msg", "status"}
        assert answer.body["status"] == 400
        assert answer.content_type == "application/json; charset=utf-8"
        assert isinstance(answer.body["msg"], str)
        assert answer.body["msg"]
        return answer.body["msg"]
