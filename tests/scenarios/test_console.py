"""The console in a real browser, against three real nodes: what an operator does, and what he sees when a node dies."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import pytest
from playwright.async_api import expect

from tests.support.browser import DESKTOP, PHONE, Visit, browsing, visiting
from tests.support.cluster import ClusterProcesses
from tests.support.http import Api
from tests.support.server import ServerProcess, free_ports

TOKEN = "an-operator-s-token"
READONLY = "a-reader-s-token"
SECRET = "sixteen-bytes-of-secret"
NOTICED_S = 40.0
PAGES = ("overview", "cluster", "channels", "users", "explain", "webhooks", "connections")

pytestmark = pytest.mark.timeout(240)


class Nodes:
    """Three nodes with the manager's port."""

    def __init__(self, directory: Path) -> None:
        self._ports = dict(zip((1, 2, 3), free_ports(3), strict=True))
        self.cluster = ClusterProcesses(
            directory,
            3,
            {"managerToken": TOKEN},
            own_settings={
                node: {"manager": {"on": True, "addr": f"127.0.0.1:{port}", "readonlyToken": READONLY}}
                for node, port in self._ports.items()
            },
            secret=SECRET,
            proxied=False,
        )

    def url(self, node: int) -> str:
        return f"http://127.0.0.1:{self._ports[node]}/web/"


@contextlib.asynccontextmanager
async def running(directory: Path) -> AsyncIterator[Nodes]:
    nodes = Nodes(directory)
    try:
        await asyncio.to_thread(nodes.cluster.start)
        yield nodes
    finally:
        await asyncio.to_thread(nodes.cluster.close)


async def log_in(visit: Visit, url: str, token: str = TOKEN) -> None:
    await visit.page.goto(url)
    await visit.page.get_by_label("Manager token").fill(token)
    await visit.page.get_by_role("button", name="Log in", exact=True).click()
    await expect(visit.page.get_by_role("heading", level=1)).to_have_text("Overview")


async def open_page(visit: Visit, name: str) -> None:
    await visit.page.get_by_role("navigation").get_by_role("link", name=name, exact=True).click()
    await expect(visit.page.get_by_role("heading", level=1)).to_have_text(name)


async def test_an_operator_makes_a_channel_adds_a_subscriber_and_sees_who_gets_its_messages(tmp_path: Path) -> None:
    async with running(tmp_path) as nodes, browsing() as browser, visiting(browser) as visit:
        page = visit.page
        await log_in(visit, nodes.url(1))
        await open_page(visit, "Channels")
        await page.get_by_role("button", name="Create a channel").click()
        dialog = page.get_by_role("dialog")
        await dialog.get_by_label("Channel id").fill("lunch")
        await dialog.get_by_label("Subscribers").fill("alice, bob")
        await dialog.get_by_role("button", name="Create").click()
        members = page.get_by_role("region", name="Subscribers")
        await expect(members.get_by_role("row")).to_have_count(3)

        async with aiohttp.ClientSession(headers={"token": TOKEN}) as session:
            api = Api(nodes.cluster[2].http_url, session)
            await api.send("alice", "lunch", b'{"type":1,"content":"noon?"}')
            await page.get_by_role("button", name="Add subscribers").click()
            await dialog.get_by_label("Uids").fill("carol")
            await dialog.get_by_role("button", name="Add").click()
            added = members.get_by_role("row").filter(has_text="carol")
            # The promise, seen: what was received before is not for her, all that follows is.
            await expect(added.get_by_role("cell").nth(1)).to_have_text("2")
            assert sorted(await api.members("lunch")) == ["alice", "bob", "carol"]
            await api.send("bob", "lunch", b'{"type":1,"content":"at the usual place"}')

        await open_page(visit, "Channels")
        await page.get_by_role("link", name="lunch").click()
        newest = page.get_by_role("region", name="Messages").get_by_role("row").nth(1)
        await expect(newest).to_contain_text("at the usual place")
        await newest.get_by_role("link", name="Explain").click()
        users = page.get_by_role("region", name="Users")
        carol = users.get_by_role("row").filter(has_text="carol")
        await expect(carol).to_contain_text("a member when it was sent")
        await expect(carol).to_contain_text("comes by sync, from seq 2 on")

        await page.go_back()
        await page.get_by_role("button", name="Remove bob").click()
        await dialog.get_by_role("button", name="Remove").click()
        await expect(members.get_by_role("row").filter(has_text="bob")).to_have_count(0)
        assert visit.complaints == []
        assert await visit.faults_of_accessibility() == []


async def test_the_overview_says_that_a_node_has_died_and_that_it_is_back(tmp_path: Path) -> None:
    async with running(tmp_path) as nodes, browsing() as browser, visiting(browser) as visit:
        page = visit.page
        await log_in(visit, nodes.url(1))
        await expect(page.get_by_text("All is well")).to_be_visible(timeout=NOTICED_S * 1000)
        row = page.get_by_role("region", name="Nodes").get_by_role("row").filter(has=page.get_by_text("3", exact=True))
        await expect(row.first).to_contain_text("serving")
        await asyncio.to_thread(nodes.cluster[3].kill)
        await expect(page.get_by_text("Node 3 cannot be reached")).to_be_visible(timeout=NOTICED_S * 1000)
        await expect(page.get_by_text("2/3")).to_be_visible()
        # The other two go on: every slot gets a leader again.
        await expect(page.get_by_text("16/16")).to_be_visible(timeout=NOTICED_S * 1000)
        await asyncio.to_thread(nodes.cluster[3].start)
        await expect(page.get_by_text("All is well")).to_be_visible(timeout=NOTICED_S * 1000)
        assert visit.complaints == []


async def test_every_page_can_be_used_by_everybody_on_every_screen(tmp_path: Path) -> None:
    """axe-core finds nothing serious; nothing is wider than the screen; in both themes and languages."""
    async with running(tmp_path) as nodes, browsing() as browser:
        async with aiohttp.ClientSession(headers={"token": TOKEN}) as session:
            api = Api(nodes.cluster[1].http_url, session)
            await api.create("lunch", [f"user-{number}" for number in range(5)])
            await api.send("user-1", "lunch", b"a message without a blank " + b"x" * 300)
        filled = ("channels?id=lunch&type=2", "users?uid=user-1", "explain?id=lunch&type=2&seq=1")
        for size in (DESKTOP, PHONE):
            for theme, locale in (("light", "en-GB"), ("dark", "zh-CN")):
                async with visiting(browser, size=size, theme=theme, locale=locale) as visit:  # type: ignore[arg-type]
                    await visit.page.goto(nodes.url(1))
                    token = visit.page.locator("input[name=token]")
                    await token.wait_for()
                    assert await visit.faults_of_accessibility() == []
                    await token.fill(TOKEN)
                    await token.press("Enter")
                    await visit.page.locator(".stats").wait_for()
                    for page in (*PAGES, *filled):
                        await visit.page.evaluate("place => { location.hash = '#/' + place }", page)
                        await expect(visit.page.locator("[aria-busy]")).to_have_count(0)
                        assert await visit.faults_of_accessibility() == [], (page, size, theme)
                        assert not await visit.is_wider_than_the_screen(), (page, size, theme)
                    assert visit.complaints == []


async def test_a_reader_sees_no_way_to_change_anything(tmp_path: Path) -> None:
    server = ServerProcess(
        tmp_path,
        {
            "managerToken": TOKEN,
            "manager": {"on": True, "addr": f"127.0.0.1:{free_ports(1)[0]}", "readonlyToken": READONLY},
        },
    )
    url = f"http://{server.settings['manager']['addr']}/web/"
    try:
        await asyncio.to_thread(server.start)
        async with aiohttp.ClientSession(headers={"token": TOKEN}) as session:
            await Api(server.http_url, session).create("lunch", ["alice"])
        async with browsing() as browser, visiting(browser) as visit:
            await log_in(visit, url, READONLY)
            changes = visit.page.get_by_role("button", name="Create a channel", exact=False).or_(
                visit.page.locator("button.danger")
            )
            for page in (*PAGES, "channels?id=lunch&type=2", "users?uid=alice"):
                await visit.page.evaluate("place => { location.hash = '#/' + place }", page)
                await expect(visit.page.locator("[aria-busy]")).to_have_count(0)
                await expect(changes).to_have_count(0)
            assert visit.complaints == []
    finally:
        await asyncio.to_thread(server.kill)


async def test_the_keyboard_alone_is_enough_without_a_token_on_this_machine(tmp_path: Path) -> None:
    server = ServerProcess(tmp_path, {"manager": {"on": True, "addr": f"127.0.0.1:{free_ports(1)[0]}"}})
    try:
        await asyncio.to_thread(server.start)
        async with browsing() as browser, visiting(browser) as visit:
            page = visit.page
            await page.goto(f"http://{server.settings['manager']['addr']}/web/")
            button = page.get_by_role("button", name="Open", exact=True)
            await expect(button).to_be_visible()
            await tab_to(visit, "Open")
            await page.keyboard.press("Enter")
            await expect(page.get_by_role("heading", level=1)).to_have_text("Overview")
            await tab_to(visit, "Channels")
            await page.keyboard.press("Enter")
            await expect(page.get_by_role("heading", level=1)).to_have_text("Channels")
            await tab_to(visit, "Create a channel")
            await page.keyboard.press("Enter")
            await expect(page.get_by_role("dialog")).to_be_visible()
            await page.keyboard.press("Escape")
            await expect(page.get_by_role("dialog")).to_have_count(0)
            assert visit.complaints == []
    finally:
        await asyncio.to_thread(server.kill)


async def tab_to(visit: Visit, text: str) -> None:
    """Press Tab until the focus is on what has this text."""
    for _ in range(40):
        await visit.page.keyboard.press("Tab")
        if await visit.page.evaluate("document.activeElement.textContent.trim()") == text:
            return
    pytest.fail(f"the keyboard does not reach {text!r}")
