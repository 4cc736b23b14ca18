import asyncio
from pathlib import Path

import pytest

from wukong.cli.cluster import processes
from wukong.cli.cluster.processes import NodeProcess, how_it_ended

WITHIN_S = 60.0


class Seen:
    """What a node process told."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.deaths: list[str] = []
        self.told = asyncio.Event()

    def show(self, node: int, line: str) -> None:
        self.lines.append(line)
        self.told.set()

    def died(self, node: int, text: str) -> None:
        self.deaths.append(text)
        self.told.set()

    async def until_deaths(self, count: int) -> None:
        async with asyncio.timeout(WITHIN_S):
            while len(self.deaths) < count:
                self.told.clear()
                await self.told.wait()


def a_node(tmp_path: Path, seen: Seen, *, restart: bool = False) -> NodeProcess:
    """One that fails at once: its configuration is nonsense."""
    config = tmp_path / "wk.yaml"
    config.write_text("httpAddr: nonsense\n")
    return NodeProcess(1001, config, tmp_path / "log", show=seen.show, died=seen.died, restart=restart)


async def test_what_a_node_says_before_it_fails_is_shown_and_kept(tmp_path: Path) -> None:
    seen = Seen()
    node = a_node(tmp_path, seen)
    async with asyncio.timeout(WITHIN_S):
        await node.run()
    assert any("httpAddr" in line for line in seen.lines)
    assert "httpAddr" in (tmp_path / "log").read_text()
    assert seen.deaths[0].startswith("ended by itself with exit status 2")
    assert not node.is_running


async def test_a_node_that_dies_again_and_again_is_started_after_longer_and_longer_waits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(processes, "FIRST_RESTART_S", 0.01)
    monkeypatch.setattr(processes, "MAX_RESTART_S", 0.02)
    seen = Seen()
    node = a_node(tmp_path, seen, restart=True)
    life = asyncio.create_task(node.run())
    await seen.until_deaths(3)
    node.ask_to_stop()
    async with asyncio.timeout(WITHIN_S):
        await life
    assert node.starts_count >= 3
    assert all("started again" in text for text in seen.deaths[:3])


async def test_a_node_that_waits_for_its_restart_can_be_stopped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(processes, "FIRST_RESTART_S", 10 * WITHIN_S)
    seen = Seen()
    node = a_node(tmp_path, seen, restart=True)
    life = asyncio.create_task(node.run())
    await seen.until_deaths(1)
    node.ask_to_stop()
    async with asyncio.timeout(WITHIN_S):
        await life
    assert node.starts_count == 1


async def test_the_configuration_of_the_shell_does_not_reach_the_node(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WK_ADDR", "more nonsense")
    seen = Seen()
    await a_node(tmp_path, seen).run()
    assert any("httpAddr" in line for line in seen.lines)
    assert not any("WK_ADDR" in line for line in seen.lines)


@pytest.mark.parametrize(
    ("status", "text"), [(0, "exit status 0"), (-9, "SIGKILL"), (-15, "SIGTERM"), (-99, "signal 99")]
)
def test_the_end_of_a_process_is_told_in_words(status: int, text: str) -> None:
    assert how_it_ended(status) == text
