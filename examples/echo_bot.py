"""A bot that answers every message with its own words, and forgets nothing over restarts.

    python examples/echo_bot.py --uid echo [--positions echo.json] [--api ...] [--tcp ...]

Where it was is kept in a file: after a crash it goes on with the first message it has not answered. An answer is sent
under a number made of the message's id, so a message that is handled twice is still answered once.
"""

import argparse
import asyncio
import contextlib
import json
import signal
from pathlib import Path

from wukong.client import (
    AdminClient,
    Client,
    ClientClosed,
    HttpSyncProvider,
    Message,
    SendRefused,
    SendTimeout,
    connect,
    text_payload,
)


def load(path: Path | None) -> dict[tuple[str, int], int]:
    if path is None or not path.exists():
        return {}
    return {(channel_id, channel_type): seq for channel_id, channel_type, seq in json.loads(path.read_text())}


def save(path: Path | None, positions: dict[tuple[str, int], int]) -> None:
    if path is not None:
        rows = [[channel_id, channel_type, seq] for (channel_id, channel_type), seq in positions.items()]
        # Written beside and moved into place, so that a crash leaves the old file or the new one.
        beside = path.with_suffix(".new")
        beside.write_text(json.dumps(rows))
        beside.replace(path)


async def answer(bot: Client, message: Message) -> None:
    # No answer to itself on another device, to the system account, or to commands.
    if message.from_uid in ("", bot.uid) or message.sync_once:
        return
    reply = text_payload(f"you said: {message.text}")
    number = f"echo-{message.message_id}"
    while True:
        try:
            await bot.send(message.channel_id, message.channel_type, reply, client_msg_no=number)
        except SendTimeout:
            # Safe with the same number: the server stores it once.
            continue
        except SendRefused as refusal:
            print(f"no answer to {message.from_uid}: {refusal}")
        return


async def close_at_signal(bot: Client) -> None:
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    await stop.wait()
    await bot.close()


async def main(api: str, tcp: str, uid: str, positions_path: Path | None) -> None:
    async with AdminClient(api) as admin:
        bot = connect(
            tcp,
            uid,
            sync=HttpSyncProvider(admin, uid),
            positions=load(positions_path),
            start="unread",
            retry_first=True,
            on_state=lambda change: print(f"{change.state.value} {change.error or ''}".rstrip(), flush=True),
        )
        closing = asyncio.create_task(close_at_signal(bot))
        with contextlib.suppress(ClientClosed):
            async with bot:
                async for message in bot:
                    await answer(bot, message)
                    save(positions_path, bot.positions)
        closing.cancel()


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--uid", default="echo")
    parser.add_argument("--positions", type=Path, default=None)
    parser.add_argument("--api", default="http://127.0.0.1:5001")
    parser.add_argument("--tcp", default="127.0.0.1:5100")
    arguments = parser.parse_args()
    asyncio.run(main(arguments.api, arguments.tcp, arguments.uid, arguments.positions))
