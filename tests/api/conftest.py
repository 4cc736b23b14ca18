"""The HTTP API over a replica in memory."""

from collections.abc import AsyncIterator

import pytest

from tests.api.calls import Api
from tests.service.stack import Stack


@pytest.fixture
async def api() -> AsyncIterator[Api]:
    async with Api(await Stack().start()) as api:
        yield api
