import socket
from collections.abc import AsyncIterator

import pytest

from tests.client.small_server import SmallServer, running_server


@pytest.fixture
async def server() -> AsyncIterator[SmallServer]:
    async with running_server() as server:
        yield server


@pytest.fixture(params=["tcp", "ws"])
def transport(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def unused_address() -> str:
    """Somewhere nobody listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{probe.getsockname()[1]}"
