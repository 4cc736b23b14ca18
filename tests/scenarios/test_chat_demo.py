"""The chat demo in a real browser against a real node: two users talk, a third is added, and the server restarts."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import pytest
from playwright.async_api import Locator, expect

from tests.support.browser import DESKTOP, PHONE, Visit, browsing, visiting
from tests.support.server import ServerProcess, free_ports

pytestmark = pytest.mark.timeout(120)

# While the server is away, the browser says that it cannot be reached.
AWAY = r"ERR_CONNECTION_REFUSED|WebSocket connection to|ERR_CONNECTION_RESET|ERR_EMPTY_RESPONSE|ERR_FAILED"


class FixedPorts(ServerProcess):
    """A restart on the ports of the last life: a page that is open has only these."""

    def launch(self) -> None:
        if not self.http_port:
            self.http_port, self.tcp_port, self.ws_port = free_ports(3)
        self.run_with(self.write_config())


@contextlib.asynccontextmanager
async def running(directory: Path) -> AsyncIterator[tuple[ServerProcess, str]]:
    (port,) = free_ports(1)
    settings = {"tokenAuthOn": True, "demo": {"on": True, "addr": f"127.0.0.1:{port}"}}
    server = FixedPorts(directory, settings)
    try:
        await asyncio.to_thread(server.start)
        yield server, f"http://127.0.0.1:{port}/chatdemo/"
    finally:
        if server.is_running:
            await asyncio.to_thread(server.stop)


def window(visit: Visit, name: str) -> Locator:
    return visit.page.get_by_role("region", name=name, exact=True)


async def log_in(visit: Visit, name: str) -> Locator:
    found = window(visit, name)
    await found.get_by_role("button", name="Log in").click()
    await expect(found.get_by_role("status")).to_have_text("connected")
    return found


async def say(place: Locator, words: str) -> None:
    await place.get_by_label("Message", exact=True).fill(words)
    await place.get_by_label("Message", exact=True).press("Enter")


def line(place: Locator, words: str) -> Locator:
    return place.get_by_role("log").get_by_role("listitem").filter(has_text=words)


def chat(place: Locator, name: str) -> Locator:
    return place.get_by_role("navigation").get_by_role("button").filter(has_text=name)


async def test_two_users_talk_a_third_is_added_and_nothing_is_missed_when_the_server_restarts(tmp_path: Path) -> None:
    async with (
        running(tmp_path) as (server, url),
        browsing() as browser,
        visiting(browser) as visit,
        visiting(browser) as other,
    ):
        await visit.page.goto(url)
        alice, bob = await log_in(visit, "alice"), await log_in(visit, "bob")

        # Persons, both ways, with what is unread.
        await alice.get_by_label("Chat with").fill("bob")
        await alice.get_by_role("button", name="Open").click()
        await say(alice, "noon?")
        await expect(line(alice, "noon?")).to_contain_text("sent")
        await expect(chat(bob, "alice")).to_contain_text("1")
        await chat(bob, "alice").click()
        await expect(line(bob, "noon?")).to_be_visible()
        await expect(bob.locator(".count")).to_have_count(0)
        await say(bob, "at the usual place")
        await expect(line(alice, "at the usual place")).to_be_visible()

        # A group; who is added while pages are open gets the next message.
        await other.page.goto(f"{url}?users=carol")
        carol = window(other, "carol")
        await expect(carol.get_by_role("status")).to_have_text("connected")
        await alice.get_by_label("Group name").fill("lunch")
        await alice.get_by_label("Members").fill("bob")
        await alice.get_by_role("button", name="Create group").click()
        await expect(alice.get_by_role("heading", name="lunch")).to_be_visible()
        await say(alice, "before carol")
        await expect(line(alice, "before carol")).to_contain_text("sent")
        await alice.get_by_label("Add a member").fill("carol")
        await alice.get_by_role("button", name="Add", exact=True).click()
        await expect(alice.get_by_role("status")).to_contain_text("carol")
        await say(alice, "welcome carol")
        await expect(chat(carol, "lunch").locator(".count")).to_contain_text("1")
        await expect(chat(bob, "lunch").locator(".count")).to_contain_text("2")
        await chat(carol, "lunch").click()
        await expect(line(carol, "welcome carol")).to_be_visible()

        # The server goes away. What is written meanwhile is sent when it is back, once; and the others see it.
        visit.forgive(AWAY)
        other.forgive(AWAY)
        await asyncio.to_thread(server.kill)
        await expect(alice.get_by_role("status")).to_contain_text("reconnecting")
        await say(alice, "written without a server")
        await expect(line(alice, "written without a server")).to_contain_text("sending")
        # Carol comes back later than what is written to her.
        await other.page.route("**/session", lambda route: route.abort())
        await asyncio.to_thread(server.start)
        for each in (alice, bob):
            await expect(each.get_by_role("status")).to_have_text("connected", timeout=25_000)
        await expect(line(alice, "written without a server")).to_contain_text("sent")
        await expect(carol.get_by_role("status")).to_contain_text("reconnecting")
        await other.page.unroute("**/session")
        await expect(line(carol, "written without a server")).to_have_count(1, timeout=25_000)
        await expect(carol.get_by_role("status")).to_have_text("connected")
        await chat(bob, "lunch").click()
        await expect(bob.get_by_role("log").get_by_role("listitem")).to_have_count(3)
        assert visit.complaints == []
        assert other.complaints == []


async def test_a_refused_message_says_why_and_everybody_can_use_the_page_on_every_screen(tmp_path: Path) -> None:
    async with running(tmp_path) as (server, url), browsing() as browser:
        refused = {"en-GB": "not sent: not a member of this group", "zh-CN": "未发送：不是该群成员"}
        for size, theme, locale in ((DESKTOP, "light", "en-GB"), (PHONE, "dark", "zh-CN")):
            async with visiting(browser, size=size, theme=theme, locale=locale) as visit:  # type: ignore[arg-type]
                await visit.page.goto(f"{url}?users=alice,bob")
                alice = window(visit, "alice")
                await alice.locator(".person input").fill("bob")
                await alice.locator(".person input").press("Enter")
                await alice.locator(".send input").fill("x" * 300)
                await alice.locator(".send input").press("Enter")
                await expect(alice.locator(".log li.own").last).to_contain_text(
                    "已发送" if locale == "zh-CN" else "sent"
                )
                await alice.locator(".group [name=name]").fill(f"lunch-{theme}")
                await alice.locator(".group [name=name]").press("Enter")
                await expect(alice.get_by_role("heading", level=2)).to_contain_text(f"lunch-{theme}")
                await expect(alice.locator(".log:not([aria-busy])")).to_have_count(1)
                removed = {"channel_id": f"demo-lunch-{theme}", "channel_type": 2, "subscribers": ["demo-alice"]}
                async with aiohttp.request(
                    "POST", f"{server.http_url}/channel/subscriber_remove", json=removed
                ) as answer:
                    assert answer.status == 200
                await alice.locator(".send input").fill("anybody there?")
                await alice.locator(".send input").press("Enter")
                await expect(alice.locator(".log li.own").last).to_contain_text(refused[locale])
                assert await visit.faults_of_accessibility() == []
                assert not await visit.is_wider_than_the_screen()
                assert visit.complaints == []
