"""The server's pages in a headless Chromium: what a reader sees of them.

Runs in the clients' environment: python -m tests.clients.page look
"""

from __future__ import annotations

import shutil
from typing import Any

from tests.clients.ask import Ask, run

PATIENCE_S = 60


def look(ask: Ask) -> dict[str, Any]:
    """Rank documents on the page, then ask it for nothing, then read the API's description."""
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service
    from selenium.webdriver.support.ui import WebDriverWait

    options = webdriver.ChromeOptions()
    for option in ("--headless=new", "--no-sandbox", "--disable-gpu", "--window-size=1000,1100"):
        options.add_argument(option)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    browser = webdriver.Chrome(options, Service(shutil.which("chromedriver")))
    wait = WebDriverWait(browser, PATIENCE_S)
    seen: dict[str, Any] = {}

    def texts(selector: str) -> list[str]:
        elements = wait.until(lambda b: b.find_elements("css selector", selector))
        return [element.text for element in elements]

    def fill(name: str, text: str) -> None:
        field = browser.find_element("id", name)
        field.clear()
        field.send_keys(text)

    try:
        browser.get(f"{ask.url}/")
        seen["models"] = texts("#models tbody tr")
        fill("query", ask.query)
        fill("documents", "\n".join(ask.documents))
        browser.find_element("css selector", "button").click()
        seen["results"] = texts("#results tbody tr")
        seen["timings"] = browser.find_element("id", "timings").text
        browser.save_screenshot(ask.picture)
        fill("query", " ")
        browser.find_element("css selector", "button").click()
        wait.until(lambda b: b.find_element("id", "error").text)
        seen["error"] = browser.find_element("id", "error").text
        browser.get(f"{ask.url}/docs")
        seen["methods"] = texts("h2")
        seen["log"] = [entry["message"] for entry in browser.get_log("browser")]
    finally:
        browser.quit()
    return seen


if __name__ == "__main__":
    run(globals())
