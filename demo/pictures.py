"""Pictures of the page, by a Chromium without a window."""

import os
import shutil

from playwright.sync_api import Browser, Playwright, sync_playwright

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


def launch(playwright: Playwright) -> Browser:
    """Start this machine's Chromium, or playwright's own. Raises playwright's Error if there is neither."""
    options = ["--no-sandbox"] if os.geteuid() == 0 else []
    return playwright.chromium.launch(executable_path=CHROMIUM, args=options)


def save_page(url: str, path: str) -> None:
    """Write the page, as it is now, as a picture. Raises playwright's Error."""
    with sync_playwright() as playwright, launch(playwright) as browser:
        page = browser.new_page(viewport={"width": 1200, "height": 700})
        page.goto(url)
        page.locator("#state.live").wait_for()
        page.wait_for_timeout(2000)
        page.screenshot(path=path, full_page=True)
