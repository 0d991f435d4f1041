"""A real Chromium, for the tests of the page and for its pictures in the docs."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager

from playwright.sync_api import Browser, Page, sync_playwright

NAMES = ("chromium", "chromium-browser", "google-chrome")
PATIENCE_MS = 20_000
"""For machines that do other things meanwhile."""
ARGUMENTS = ("--no-sandbox", "--disable-dev-shm-usage", "--disable-gpu")
"""Containers have no user namespaces, little shared memory, and no GPU."""

Opened = tuple[Page, list[str]]
"""A tab, and what its console says: errors and refusals, as they come."""


def find_chromium() -> str | None:
    """The path of the Chromium that CHROMIUM names, or of the one that is installed."""
    return os.environ.get("CHROMIUM") or next(filter(None, map(shutil.which, NAMES)), None)


@contextmanager
def chromium(path: str) -> Iterator[Browser]:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=list(ARGUMENTS))
        try:
            yield browser
        finally:
            browser.close()


@contextmanager
def opened(
    browser: Browser,
    url: str,
    *,
    width: int = 1440,
    height: int = 900,
    is_dark: bool = False,
    is_phone: bool = False,
    is_slowed: bool = False,
    scale: float = 1,
) -> Iterator[Opened]:
    """The page in a tab of its own.

    Unless it is slowed, exits are shown when they answer: people's wish for less motion.
    """
    context = browser.new_context(
        viewport={"width": width, "height": height},
        color_scheme="dark" if is_dark else "light",
        reduced_motion="no-preference" if is_slowed else "reduce",
        has_touch=is_phone,
        is_mobile=is_phone,
        device_scale_factor=scale,
    )
    context.set_default_timeout(PATIENCE_MS)
    tab, complaints = context.new_page(), list[str]()
    tab.on("pageerror", lambda error: complaints.append(str(error)))
    tab.on("console", lambda said: complaints.append(said.text) if said.type == "error" else None)
    try:
        tab.goto(url)
        yield tab, complaints
    finally:
        context.close()
