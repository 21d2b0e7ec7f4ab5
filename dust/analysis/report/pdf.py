"""The report as a PDF, printed by a browser that is installed."""

import os
import shutil
import subprocess
import tempfile
from pathlib import Path

from dust.utils.errors import ConfigError, DataError
from dust.utils.files import replacing

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome", "msedge")
#: Seconds after which a browser is taken for hung.
LONGEST_S = 120


def find_browser() -> str:
    """Return the path of a browser that prints. ConfigError where there is none."""
    found = next(filter(None, map(shutil.which, BROWSERS)), None)
    if found is None:
        raise ConfigError(
            f"--pdf needs a browser on PATH, one of {', '.join(BROWSERS)}; or open the page and print it there"
        )
    return found


def write_pdf(page: Path, target: Path) -> Path:
    """Print a page of HTML.

    Raises:
        ConfigError: there is no browser. DataError: it did not print.
    """
    browser = find_browser()
    with replacing(target, suffix=".pdf") as temporary, tempfile.TemporaryDirectory(prefix="dust-") as profile:
        words = [browser, "--headless", "--disable-gpu", f"--user-data-dir={profile}", "--no-pdf-header-footer"]
        words += ["--no-sandbox"] if os.geteuid() == 0 else []  # which Chromium asks of root
        words += [f"--print-to-pdf={os.path.abspath(temporary)}", page.absolute().as_uri()]
        try:
            done = subprocess.run(words, capture_output=True, text=True, timeout=LONGEST_S, check=False)
        except (OSError, subprocess.TimeoutExpired) as error:
            raise DataError(f"{target}: {browser} did not print: {error}") from error
        if done.returncode or not Path(temporary).is_file() or not Path(temporary).stat().st_size:
            last = (done.stderr.strip().splitlines() or ["it said nothing"])[-1]
            raise DataError(f"{target}: {browser} did not print: {last}")
    return target
