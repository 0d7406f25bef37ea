# SPDX-License-Identifier: Apache-2.0
"""A headless Chromium, as Debian offers it, driven by WebDriver."""

from __future__ import annotations

import functools
import json
import logging
import shutil
import urllib.error
import urllib.request
from typing import Any

from tests.servers.process import Server, missing

_INSTALL = "apt-get install chromium chromium-driver"

#: No sandbox: tests run as root in containers. The rest keeps it from asking anybody for anything.
_FLAGS = (
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--disable-dev-shm-usage",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--window-size=1280,900",
)


@functools.cache
def _programs() -> tuple[str | None, str | None]:
    return shutil.which("chromium"), shutil.which("chromedriver")


class Chromium(Server):
    """A driver that starts browsers, each with a profile of its own.

    Killed together with its browsers, whatever becomes of the tests.
    """

    name = "chromium"

    def __init__(self) -> None:
        if None in _programs():
            missing(f"Chromium is not installed: {_INSTALL}")
        super().__init__()

    def prepare(self) -> None:
        """Nothing is needed before it starts."""

    def command(self) -> list[str]:
        driver = _programs()[1]
        assert driver is not None
        return [driver, f"--port={self.port}", "--allowed-ips=127.0.0.1"]

    def is_ready(self) -> bool:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/status", timeout=1) as reply:
                return bool(json.load(reply)["value"]["ready"])
        except (OSError, urllib.error.URLError, ValueError):
            return False

    def open(self) -> Any:
        """Start a browser; whoever does quits it.

        :returns: selenium's ``WebDriver``
        """
        from selenium import webdriver

        # It logs all that it is told, and what is on a page may be secret.
        logging.getLogger("selenium").setLevel(logging.WARNING)
        options = webdriver.ChromeOptions()
        options.binary_location = str(_programs()[0])
        for flag in (*_FLAGS, f"--user-data-dir={self.directory / 'profile'}"):
            options.add_argument(flag)
        options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
        return webdriver.Remote(command_executor=f"http://127.0.0.1:{self.port}", options=options)
