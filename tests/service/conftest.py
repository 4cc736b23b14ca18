"""A started stack for each test."""

import pytest

from tests.service.stack import Stack


@pytest.fixture
async def stack() -> Stack:
    return await Stack().start()
