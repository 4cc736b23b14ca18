"""Links over real sockets, on the server's loop and on asyncio's own."""

import asyncio
from collections.abc import AsyncIterator, Callable

import pytest
import uvloop

from tests.links.world import World


def pytest_asyncio_loop_factories(
    config: pytest.Config, item: pytest.Item
) -> dict[str, Callable[[], asyncio.AbstractEventLoop]]:
    return {"uvloop": uvloop.new_event_loop, "asyncio": asyncio.new_event_loop}


@pytest.fixture
async def world() -> AsyncIterator[World]:
    before = asyncio.all_tasks()
    made = World()
    yield made
    for node in made.nodes:
        await node.links.stop()
    # Whatever came in: no exception left a callback, no handler broke, no task is left.
    assert made.faults == []
    left = [task for task in asyncio.all_tasks() - before if "link" in task.get_name()]
    assert left == []
    await made.close()
