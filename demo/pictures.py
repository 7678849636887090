"""`make screenshot`: runs the demo, and makes the pictures in docs/, the page's by a Chromium without a window."""

import os
import shutil
import sys
from pathlib import Path

from playwright.sync_api import Browser, Playwright, sync_playwright
from rich.console import Console

from demo.__main__ import TITLE, run
from demo.observer import Observer
from demo.view import render
from demo.web import PORT

DOCS = Path(__file__).parent.parent / "docs"
SECONDS = 330
"""A little longer than what the charts show."""
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


def launch(playwright: Playwright) -> Browser:
    """Start this machine's Chromium, or playwright's own. Raises playwright's Error if there is neither."""
    options = ["--no-sandbox"] if os.geteuid() == 0 else []
    return playwright.chromium.launch(executable_path=CHROMIUM, args=options)


def save(observer: Observer) -> None:
    """Write the live view and the page, as they are now. Raises playwright's Error."""
    with open(os.devnull, "w") as nowhere:
        recorder = Console(record=True, width=100, file=nowhere)
        recorder.print(render(observer, TITLE))
        recorder.save_svg(str(DOCS / "demo.svg"), title="make demo")
    with sync_playwright() as playwright, launch(playwright) as browser:
        page = browser.new_page(viewport={"width": 1200, "height": 700})
        page.goto(f"http://localhost:{PORT}")
        page.locator("#state.live").wait_for()
        page.wait_for_timeout(2000)
        page.screenshot(path=DOCS / "dashboard.png", full_page=True)


if __name__ == "__main__":
    sys.exit(not run(Console(), SECONDS, PORT, alerts=True, at_the_end=save))
