"""The client's promise against a real server that is killed and comes back on the same data and ports."""

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.server import ServerProcess
from wukong.client import AdminClient, Backoff, ChannelType, Client, HttpSyncProvider, State, connect

GROUP = ChannelType.GROUP
KILLS_COUNT = 3
SENDERS_COUNT = 20
TIMEOUT_S = 60


@pytest.fixture
def node(tmp_path: Path) -> Iterator[ServerProcess]:
    process = ServerProcess(tmp_path / "node")
    process.start()
    yield process
    process.kill()
    assert process.complaints() == []


def kill_and_come_back(node: ServerProcess) -> None:
    node.kill()
    node.run_with(node.directory / "wk.yaml")
    node.wait_ready()


@pytest.mark.parametrize("transport", ["tcp", "ws"])
async def test_everything_sent_is_stored_once_and_received_once_and_in_order(
    node: ServerProcess, transport: str
) -> None:
    place = f"127.0.0.1:{node.tcp_port}" if transport == "tcp" else node.ws_url
    backoff = Backoff(base_s=0.05, cap_s=0.3)
    async with AdminClient(node.http_url) as admin:
        await admin.create_channel("g", subscribers=["ann", "ben"])
        sync = {uid: HttpSyncProvider(admin, uid) for uid in ("ann", "ben")}
        async with (
            connect(place, "ann", sync=sync["ann"], backoff=backoff) as ann,
            connect(place, "ben", sync=sync["ben"], backoff=backoff) as ben,
        ):
            stop = asyncio.Event()
            received: list[tuple[int, str]] = []
            sent: dict[str, int] = {}
            receiving = asyncio.create_task(_receive(ben, received))
            sending = [asyncio.create_task(_send(ann, f"{number}", stop, sent)) for number in range(SENDERS_COUNT)]
            for _ in range(KILLS_COUNT):
                before_count = len(sent)
                while len(sent) < before_count + 200:
                    await asyncio.sleep(0.01)
                await asyncio.to_thread(kill_and_come_back, node)
            stop.set()
            async with asyncio.timeout(TIMEOUT_S):
                await asyncio.gather(*sending)
                await ben.wait_for(State.SYNCED)
                while len(received) < len(sent):
                    await asyncio.sleep(0.01)
            receiving.cancel()
            last_seq = await admin.max_message_seq("g", GROUP)
    # The answers told the truth, nothing is stored twice, nothing is missing or out of order at the receiver.
    assert last_seq == len(sent)
    assert [seq for seq, _ in received] == list(range(1, last_seq + 1))
    assert {text: seq for seq, text in received} == sent
    # Of each sender the texts are in order too: he sends the next one when the last is answered.
    for number in range(SENDERS_COUNT):
        mine = [int(text.split("-")[1]) for _, text in received if text.startswith(f"{number}-")]
        assert mine == list(range(len(mine)))


async def _send(client: Client, name: str, stop: asyncio.Event, sent: dict[str, int]) -> None:
    count = 0
    while not stop.is_set():
        text = f"{name}-{count}"
        sent[text] = (await client.send("g", GROUP, text, timeout=TIMEOUT_S)).message_seq
        count += 1


async def _receive(client: Client, received: list[tuple[int, str]]) -> None:
    async for message in client:
        # One by one: others look at the list meanwhile.
        received.append((message.message_seq, message.payload.decode()))  # noqa: PERF401
