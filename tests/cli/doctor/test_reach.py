import asyncio
import socket
from pathlib import Path

from wukong.cli.doctor.finding import ERROR, OK
from wukong.cli.doctor.reach import Target, judge, look_at_back_ends, reason, targets
from wukong.config import Config, load_config


def config(tmp_path: Path, **keys: str) -> Config:
    return load_config(None, {"WK_DATADIR": str(tmp_path), **keys}, embedded=True)[0]


async def test_a_back_end_that_listens_is_reached_and_told_nothing(tmp_path: Path) -> None:
    heard = asyncio.get_running_loop().create_future()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        heard.set_result(await reader.read())
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        port = server.sockets[0].getsockname()[1]
        (found,) = await look_at_back_ends(config(tmp_path, WK_WEBHOOK_HTTPADDR=f"http://127.0.0.1:{port}/x"))
        assert await asyncio.wait_for(heard, 10) == b""
    assert found.level == OK


async def test_an_unreachable_webhook_is_an_error(tmp_path: Path) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{unused.getsockname()[1]}"
        (found,) = await look_at_back_ends(config(tmp_path, WK_WEBHOOK_GRPCADDR=address))
    assert (found.level, f"{address} (webhook.grpcAddr)" in found.text) == (ERROR, True)
    assert "nobody listens" in found.text


def test_every_back_end_of_the_configuration_is_a_target(tmp_path: Path) -> None:
    found = targets(
        config(
            tmp_path,
            WK_WEBHOOK_HTTPADDR="https://u:pass@hook.example/x?key=1",
            WK_AGENT_WEBHOOK_HTTPADDR="http://agent.example:8080/",
            WK_DATASOURCE_ADDR="http://ds.example",
        )
    )
    assert [(each.check, each.host, each.port, each.tls) for each in found] == [
        ("webhook", "hook.example", 443, True),
        ("webhook", "agent.example", 8080, False),
        ("datasource", "ds.example", 80, False),
    ]
    assert "pass" not in repr(found)


def test_what_is_wrong_is_said_in_words() -> None:
    target = Target("webhook", "webhook.httpAddr", "h", 1, False)
    assert "no answer in 3 s" in judge(target, TimeoutError()).text
    assert reason(OSError(113, "No route to host")) == "No route to host"
