"""A headless Chromium for the tests, and what it saw."""

import json
import os
import shutil

import pytest
from selenium.webdriver import Chrome, ChromeOptions
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.by import By

CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
needs_browser = pytest.mark.skipif(  # by hand only: where everything must hold, it is missed
    not (CHROMIUM and DRIVER) and not os.environ.get("CI"),
    reason="chromium is missing: .ci/debian chromium chromium; .ci/debian chromedriver chromium-driver")


class Browser:
    """One window. Everything that waits, waits for something that the page shows."""

    def __init__(self, site):
        options = ChromeOptions()
        options.binary_location = CHROMIUM
        for word in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--disable-gpu",
                     "--disable-background-networking", "--disable-component-update", "--no-first-run"):
            options.add_argument(word)
        options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
        self.driver = Chrome(options, Service(DRIVER))
        self.site = site

    def close(self):
        self.driver.quit()

    def open(self, server, route="", width=1440, height=900, ready=True):
        """Show a page of the server and wait for its first data."""
        self.resize(width, height)
        self.driver.get(f"http://127.0.0.1:{server.port}/{route}")
        if ready:
            self.wait(lambda: self.script("return document.body.dataset.ready === '1'"), "the first data")

    def resize(self, width, height):
        """Of the page, not of the window around it, which cannot be as narrow as a phone."""
        self.command("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1,
                     mobile=False)

    def command(self, name, **arguments):
        """Of the DevTools protocol."""
        return self.driver.execute_cdp_cmd(name, arguments)

    def script(self, text, *arguments):
        return self.driver.execute_script(text, *arguments)

    def text(self, selector):
        """What the first element shows; empty where there is none."""
        return self.script("return document.querySelector(arguments[0])?.textContent.trim() ?? ''", selector)

    def texts(self, selector):
        return self.script("return [...document.querySelectorAll(arguments[0])].map(one => one.textContent.trim())",
                           selector)

    def click(self, selector):
        self.driver.find_element(By.CSS_SELECTOR, selector).click()

    def type(self, selector, text):
        self.driver.find_element(By.CSS_SELECTOR, selector).send_keys(text)

    def wait(self, predicate, what, timeout=15):
        self.site.wait(predicate, timeout, what)

    def complaints(self):
        """What the console says that is no mere information."""
        return [entry["message"] for entry in self.driver.get_log("browser") if entry["level"] != "INFO"]

    def hosts(self):
        """Where the page's requests went."""
        asked = set()
        for entry in self.driver.get_log("performance"):
            message = json.loads(entry["message"])["message"]
            if message["method"] == "Network.requestWillBeSent":
                asked.add(message["params"]["request"]["url"].split("/")[2])
            elif message["method"] == "Network.webSocketCreated":
                asked.add(message["params"]["url"].split("/")[2])
        return asked
