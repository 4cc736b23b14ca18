"""Pages in a real browser: headless Chromium by Playwright, with what the page complained about, and axe-core.

Needs Debian's package `chromium`, which scripts/setup installs for root; WUKONG_CHROMIUM names another binary. Without
one the tests are skipped, unless WUKONG_BROWSER_TESTS=required, which is for continuous integration.

    async with browsing() as browser, visiting(browser) as visit:
        await visit.page.goto(url)
        assert await visit.faults_of_accessibility() == []
        assert visit.complaints == []
"""

import contextlib
import os
import re
import shutil
from collections.abc import AsyncIterator, Iterable
from pathlib import Path
from typing import Any, Literal

import pytest
from playwright.async_api import Browser, ConsoleMessage, Page, Request, async_playwright

_AXE = Path(__file__).parent / "vendor" / "axe.min.js"

DESKTOP = (1280, 800)
PHONE = (390, 844)
TIMEOUT_S = 15.0
_GRAVE = ("serious", "critical")


def chromium_path() -> str:
    """The browser to start. Skips the test where there is none."""
    candidates = [os.environ.get("WUKONG_CHROMIUM", ""), "chromium", "chromium-browser", "google-chrome"]
    for candidate in filter(None, candidates):
        found = shutil.which(candidate)
        if found:
            return found
    text = "no Chromium: install Debian's package `chromium`, or name a binary in WUKONG_CHROMIUM"
    if os.environ.get("WUKONG_BROWSER_TESTS") == "required":
        pytest.fail(text)
    pytest.skip(text)


@contextlib.asynccontextmanager
async def browsing() -> AsyncIterator[Browser]:
    """A browser process of this test's own."""
    path = chromium_path()
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(
            executable_path=path,
            # Root has no sandbox, and /dev/shm is small in containers.
            args=["--no-sandbox", "--disable-dev-shm-usage", "--disable-gpu"],
        )
        try:
            yield browser
        finally:
            await browser.close()


class Visit:
    """One page in a context of its own (cookies, storage). complaints: console errors and warnings, which failed
    requests are among, uncaught exceptions, and requests for an address outside."""

    def __init__(self, page: Page, forgiven: Iterable[str]) -> None:
        self.page = page
        self.complaints: list[str] = []
        self._forgiven = [re.compile(each) for each in forgiven]
        page.on("console", self._on_console)
        page.on("pageerror", lambda error: self._note(f"uncaught: {error}"))
        page.on("request", self._on_request)

    def forgive(self, pattern: str) -> None:
        """Complaints that this pattern is found in are expected from here on."""
        self._forgiven.append(re.compile(pattern))

    def _note(self, text: str) -> None:
        if not any(each.search(text) for each in self._forgiven):
            self.complaints.append(text)

    def _on_console(self, message: ConsoleMessage) -> None:
        if message.type in ("error", "warning"):
            self._note(f"{message.type}: {message.text} ({message.location.get('url', '')})")

    def _on_request(self, request: Request) -> None:
        if not re.match(r"(?:(?:https?|wss?)://(?:127\.0\.0\.1|localhost)[:/]|data:|blob:|about:)", request.url):
            self._note(f"asks an address outside: {request.url}")

    async def faults_of_accessibility(self) -> list[str]:
        """What axe-core calls serious or critical, as rule, place and how to mend it. Works under a strict CSP: the
        script comes through the debugger, not through the page."""
        await self.page.evaluate(_AXE.read_text() + "\n;undefined")
        found: dict[str, Any] = await self.page.evaluate("() => axe.run(document, {resultTypes: ['violations']})")
        return [
            f"{fault['id']}: {node['target']} {node['failureSummary']}"
            for fault in found["violations"]
            if fault["impact"] in _GRAVE
            for node in fault["nodes"]
        ]

    async def is_wider_than_the_screen(self) -> bool:
        """Whether one has to scroll sideways."""
        wider: bool = await self.page.evaluate(
            "() => document.documentElement.scrollWidth > document.documentElement.clientWidth"
        )
        return wider


@contextlib.asynccontextmanager
async def visiting(
    browser: Browser,
    *,
    size: tuple[int, int] = DESKTOP,
    theme: Literal["light", "dark"] = "light",
    locale: str = "en-GB",
    forgiven: Iterable[str] = (),
) -> AsyncIterator[Visit]:
    """size: CSS pixels. locale: what the page finds in navigator.language."""
    context = await browser.new_context(
        viewport={"width": size[0], "height": size[1]}, color_scheme=theme, locale=locale, reduced_motion="reduce"
    )
    context.set_default_timeout(TIMEOUT_S * 1000)
    try:
        yield Visit(await context.new_page(), forgiven)
    finally:
        await context.close()
