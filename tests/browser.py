"""A headless Chromium that opens pages from files and tells what it saw."""

import json
import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

_DRIVERS = ("chromedriver", "/usr/lib/chromium/chromedriver")
_BROWSERS = ("chromium", "chromium-browser", "google-chrome")
_PATIENCE = 30.0  # s until a page must have drawn all it draws

# Text on what is behind it: the least contrast of any element with text of its own, and that text.
CONTRAST = """
const light = (rgb) => { const [r, g, b] = rgb.map((c) => { c /= 255;
  return c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4; });
  return 0.2126 * r + 0.7152 * g + 0.0722 * b; };
const read = (color) => (color.match(/[\\d.]+/g) ?? [0, 0, 0, 0]).map(Number);
const behind = (node) => { for (let at = node; at; at = at.parentElement) {
  const c = read(getComputedStyle(at).backgroundColor); if (c.length < 4 || c[3] > 0) return c; }
  return [255, 255, 255]; };
const found = [];
for (const node of document.querySelectorAll("body *")) {
  const own = [...node.childNodes].some((c) => c.nodeType === 3 && c.textContent.trim());
  if (!own || !node.getClientRects().length || /SCRIPT|STYLE/.test(node.tagName)) continue;
  const style = getComputedStyle(node), svg = node instanceof SVGElement;
  const both = [read(svg ? style.fill : style.color), behind(node)];
  const [a, b] = both.map((c) => light(c.slice(0, 3)));
  found.push([(Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05), node.textContent.slice(0, 40)]);
}
return found.sort((a, b) => a[0] - b[0]).slice(0, 3);
"""


@contextmanager
def opened() -> Iterator["Browser"]:
    """A browser, or a test skipped with the reason why there is none."""
    webdriver = pytest.importorskip("selenium.webdriver", reason="selenium is not installed")
    from selenium.webdriver.chrome.service import Service

    driver = next(filter(None, map(shutil.which, _DRIVERS)), None)
    binary = next(filter(None, map(shutil.which, _BROWSERS)), None)
    if driver is None or binary is None:
        pytest.skip("no Chromium with its driver here: apt-get install chromium chromium-driver")
    options = webdriver.ChromeOptions()
    options.binary_location = binary
    for word in ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"):
        options.add_argument(word)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    chrome = webdriver.Chrome(options=options, service=Service(driver))
    try:
        yield Browser(chrome)
    finally:
        chrome.quit()


class Browser:
    """One page at a time, at a width of so many px."""

    def __init__(self, chrome: Any):
        self.chrome = chrome

    def open(self, path: Path, width: int = 1440) -> None:
        """Open a page, and wait until all is drawn."""
        self.resize(width)
        self.chrome.get(path.resolve().as_uri())
        self.wait("return Boolean(document.body.dataset.ready)")

    def resize(self, width: int, height: int = 900) -> None:
        """A window of this size, also narrower than desktops allow."""
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
        self.chrome.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)

    def run(self, script: str, *given: Any) -> Any:
        """What a script returns."""
        return self.chrome.execute_script(script, *given)

    def wait(self, script: str, *given: Any) -> Any:
        """What a script returns, once that is true."""
        end = time.monotonic() + _PATIENCE
        while not (found := self.run(script, *given)):
            if time.monotonic() > end:
                raise TimeoutError(f"{script}; the console says {self.said()}")
            time.sleep(0.05)
        return found

    def said(self) -> list[str]:
        """What the console has said since it was last asked."""
        return [entry["message"] for entry in self.chrome.get_log("browser")]

    def requested(self) -> list[str]:
        """Addresses that were asked for since this was last asked, but what the page holds."""
        events = [json.loads(entry["message"])["message"] for entry in
                  self.chrome.get_log("performance")]  # fmt: skip
        sent = [e["params"] for e in events if e["method"] == "Network.requestWillBeSent"]
        asked = [each["request"]["url"] for each in sent]
        return [url for url in asked if not url.startswith(("data:", "blob:"))]

    def shot(self, name: str) -> None:
        """Save the whole page as a picture, where JAXGNE_SHOTS names a folder."""
        folder = os.environ.get("JAXGNE_SHOTS")
        if folder is None:
            return
        wide, high = self.run("return [innerWidth, document.documentElement.scrollHeight]")
        self.resize(wide, high)
        time.sleep(0.5)  # charts follow the window
        Path(folder).mkdir(parents=True, exist_ok=True)
        self.chrome.save_screenshot(str(Path(folder) / f"{name}-{wide}.png"))
        self.resize(wide)
