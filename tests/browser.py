"""A headless Chromium for tests of pages; they are skipped, and say so, where there is none."""

import contextlib
import shutil

import pytest

FLAGS = (
    "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync",
    "--disable-background-networking", "--disable-component-update", "--window-size=1200,900",
    "--autoplay-policy=no-user-gesture-required",
)  # fmt: skip


@contextlib.contextmanager
def chromium(folder, *flags):
    """A driver whose profile is in ``folder``; whatever the page logs as an error fails the test."""
    selenium = pytest.importorskip("selenium.webdriver")
    browser, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if not browser or not driver:
        pytest.skip("needs Debian's chromium and chromium-driver")
    options = selenium.ChromeOptions()
    options.binary_location = browser
    for flag in (*FLAGS, f"--user-data-dir={folder}", *flags):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "SEVERE"})
    page = selenium.Chrome(options=options, service=selenium.ChromeService(driver))
    try:
        yield page
        errors = [entry["message"] for entry in page.get_log("browser")]
        assert not errors, errors
    finally:
        page.quit()
