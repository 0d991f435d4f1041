"""The pictures of docs/page.md, from a running server of the shipped models.

python -m tests.server.page.pictures http://127.0.0.1:8000 docs/page
"""

import sys
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

from PIL import Image
from playwright.sync_api import FilePayload, Page, expect

from tests.server.page.browser import Opened, chromium, find_chromium, opened

COLOURS = 256
"""Enough for flat colours and small drawings; a third of the bytes."""
Act = Callable[[Page], None]


def choose(name: str) -> Act:
    def act(tab: Page) -> None:
        tab.get_by_role("button", name=name).click()
        expect(tab.locator("#exits-note")).to_contain_text("One run")

    return act


def easy(tab: Page) -> None:
    for name in ("clock", "skyscraper", "road", "sunflower", "apple"):
        choose(name)(tab)
        tab.get_by_role("button", name="Ask the server").click()
        expect(tab.locator("#asked")).to_contain_text("says")


def hard(tab: Page) -> None:
    choose("poppy")(tab)
    tab.get_by_role("radio", name="accurate").check()
    tab.get_by_role("button", name="Ask the server").click()
    expect(tab.locator("#asked")).to_contain_text("says")


def tight(tab: Page) -> None:
    choose("cloud")(tab)
    tab.get_by_label("Latency budget").fill("50")


def error(tab: Page) -> None:
    file = FilePayload(name="notes.png", mimeType="image/png", buffer=b"no image at all")
    tab.get_by_label("Choose an image").set_input_files(file)
    expect(tab.locator("#run-error")).to_be_visible()


def picture(opening: AbstractContextManager[Opened], path: Path, act: Act) -> None:
    with opening as (tab, _):
        expect(tab.locator("#points-table tbody tr")).not_to_have_count(0)
        act(tab)
        tab.mouse.move(0, 0)
        tab.wait_for_timeout(2500)  # for the live numbers
        tab.screenshot(path=path, full_page=True)
    Image.open(path).convert("RGB").quantize(COLOURS).save(path, optimize=True)


def main(url: str, directory: Path) -> None:
    """Writes every picture to the directory."""
    directory.mkdir(parents=True, exist_ok=True)
    path = find_chromium()
    assert path is not None, "there is no Chromium"
    with chromium(path) as browser:
        phone = opened(browser, url, width=390, height=844, is_phone=True, scale=1.5)
        picture(opened(browser, url), directory / "easy.png", easy)
        picture(opened(browser, url, is_dark=True), directory / "hard.png", hard)
        picture(opened(browser, url), directory / "tight.png", tight)
        picture(opened(browser, url), directory / "error.png", error)
        picture(phone, directory / "phone.png", choose("poppy"))


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
