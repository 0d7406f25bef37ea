# SPDX-License-Identifier: Apache-2.0
"""Somebody who looks at the page and clicks."""

from __future__ import annotations

import base64
import json
import pathlib
from typing import Any

from tests.waiting import wait_until

#: Contrast of every text against what is behind it, by WCAG 2.2's formula; those below 4.5.
_CONTRAST = """
const parse = (text) => (text.match(/[\\d.]+/g) || []).map(Number);
const light = ([r, g, b]) => {
  const [x, y, z] = [r, g, b].map((v) => ((v /= 255) <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4));
  return 0.2126 * x + 0.7152 * y + 0.0722 * z;
};
const ground = (element) => {
  if (element.closest("g.node")) return parse(getComputedStyle(element.closest("g.node").querySelector("rect")).fill);
  for (let each = element; each; each = each.parentElement) {
    const found = parse(getComputedStyle(each).backgroundColor);
    if (found.length === 3 || found[3] > 0) return found;
  }
  return [255, 255, 255];
};
const bad = [];
let seen = 0;
const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
while (walker.nextNode()) {
  const element = walker.currentNode.parentElement;
  const text = walker.currentNode.textContent.trim();
  if (!text || !element.checkVisibility() || element.closest(".unseen, .skip, title, desc, option, noscript")) continue;
  seen += 1;
  const style = getComputedStyle(element);
  const ink = light(parse(element instanceof SVGElement ? style.fill : style.color));
  const back = light(ground(element));
  const contrast = (Math.max(ink, back) + 0.05) / (Math.min(ink, back) + 0.05);
  if (contrast < 4.5) bad.push(`${text.slice(0, 40)}: ${contrast.toFixed(2)}`);
}
return [seen, bad];
"""


class Browser:
    """One browser at the page of one server.

    :param driver: selenium's.
    :param url: of the server.
    """

    def __init__(self, driver: Any, url: str) -> None:
        self.driver = driver
        self.url = url
        self._width = 1280

    def run(self, script: str, *values: Any) -> Any:
        return self.driver.execute_script(script, *values)

    def _tell(self, command: str, values: dict[str, Any]) -> Any:
        asked = {"cmd": command, "params": values}
        return self.driver.execute("executeCdpCommand", asked)["value"]

    def open(self, view: str = "#/") -> None:
        """Load the page anew."""
        self.driver.get(f"{self.url}/{view}")

    def come_in(self, key: str, view: str = "#/", state: str = "live") -> None:
        """Load the page with a key that was typed in before, and wait until it says *state*."""
        self.open()
        self.run("sessionStorage.setItem('lazy_engine.key', arguments[0])", key)
        self.driver.get("about:blank")
        self.open(view)
        wait_until(lambda: self.state == state, what=f"the page to be {state}")

    def leave(self) -> None:
        self.run("sessionStorage.clear()")
        self.driver.get("about:blank")

    @property
    def state(self) -> str:
        return str(self.run("return document.getElementById('live')?.dataset.state || ''"))

    def text(self, selector: str = "body") -> str:
        return str(
            self.run("return document.querySelector(arguments[0])?.innerText || ''", selector)
        )

    def shows(self, *texts: str, selector: str = "body") -> None:
        """Wait until all of these can be read."""

        def check() -> bool:
            found = self.text(selector)
            missing = [text for text in texts if text not in found]
            assert not missing, f"{missing} not in {found[:3000]}"
            return True

        wait_until(check)

    def find(self, selector: str) -> Any:
        return wait_until(
            lambda: next(iter(self.driver.find_elements("css selector", selector)), None),
            what=selector,
        )

    def button(self, label: str, within: str = "body") -> Any:
        """Return the button of that name, as it is read out."""
        script = """
        return [...document.querySelectorAll(arguments[1] + " button")].find(
          (each) => each.checkVisibility() && (each.ariaLabel || each.textContent) === arguments[0])
        """
        return wait_until(lambda: self.run(script, label, within), what=f"button {label}")

    def click(self, label: str, within: str = "body") -> None:
        def press() -> bool:
            try:
                self.button(label, within).click()
            except StaleElementReferenceException:
                return False  # just replaced by a newer one
            return True

        # Imported here: without selenium these tests are skipped.
        from selenium.common.exceptions import StaleElementReferenceException

        wait_until(press)

    def fill(self, label: str, value: str) -> None:
        """Type into the field with that label, in the open dialog."""
        script = """
        const label = [...document.querySelectorAll("dialog label")].find((each) => each.textContent === arguments[0]);
        return document.getElementById(label.htmlFor);
        """
        self.run(script, label).send_keys(value)

    def is_closed(self) -> bool:
        return not self.run("return document.querySelector('dialog')")

    def look(self, width: int = 1280, height: int = 900, *, is_dark: bool = False) -> None:
        """Look from a screen of that size."""
        self._width = width
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600}
        self._tell("Emulation.setDeviceMetricsOverride", size)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if is_dark else "light"}
        self._tell("Emulation.setEmulatedMedia", {"features": [scheme]})

    def overflow(self) -> int:
        """Return by how much the page is wider than the screen."""
        # Not than the window says it is: a telephone's grows with what is in it.
        return int(self.run("return document.documentElement.scrollWidth")) - self._width

    def faint_texts(self) -> list[str]:
        """Return texts with too little contrast; there are some texts at all."""
        seen, bad = self.run(_CONTRAST)
        assert seen > 5
        return list(bad)

    def accessible(self) -> list[dict[str, str]]:
        """Return role and name of all that assistive software is told of."""
        tree = self._tell("Accessibility.getFullAXTree", {})["nodes"]
        return [
            {
                "role": str(node.get("role", {}).get("value", "")),
                "name": str(node.get("name", {}).get("value", "")),
            }
            for node in tree
            if not node.get("ignored")
        ]

    def errors(self) -> list[str]:
        """Return what the browser complained of since the last time."""
        return [
            entry["message"]
            for entry in self.driver.execute("getLog", {"type": "browser"})["value"]
            if entry["level"] == "SEVERE"
        ]

    def shoot(self, path: pathlib.Path, height: int = 2400) -> None:
        """Write a picture of what is shown."""
        tall, wide = self.run("return [document.documentElement.scrollHeight, innerWidth]")
        clip = {"x": 0, "y": 0, "width": wide, "height": min(tall, height), "scale": 1}
        asked = {"captureBeyondViewport": True, "clip": clip}
        found = self._tell("Page.captureScreenshot", asked)
        path.write_bytes(base64.b64decode(found["data"]))

    def requests(self) -> list[str]:
        """Return the addresses of all that the page has loaded."""
        script = "return performance.getEntriesByType('resource').map((each) => each.name)"
        return [str(name) for name in self.run(script)]

    def storage(self) -> dict[str, Any]:
        """Return where the page could keep something, and what is there."""
        script = """
        return JSON.stringify({session: {...sessionStorage}, local: {...localStorage},
          cookies: document.cookie, address: location.href})
        """
        return dict(json.loads(self.run(script)))
