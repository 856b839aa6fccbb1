"""Make the pictures of the README from a page: `python docs/screenshots.py demo/page.html`.

Needs the extra `dev` and Debian's chromium.
"""

import argparse
import shutil
from pathlib import Path

from playwright.sync_api import sync_playwright

HERE = Path(__file__).parent / "images"
QUIET = ("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
         "--disable-component-update", "--disable-sync")  # fmt: skip


def main() -> None:
    """Open the page at a layer and patch worth looking at, and photograph it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("page", type=Path)
    parser.add_argument("--state", default="", help="the part of the address after #, as the page itself writes it")
    parser.add_argument("--name", default="page")
    parser.add_argument("--width", type=int, default=1280)
    parser.add_argument("--height", type=int, default=900)
    parser.add_argument("--dark", action="store_true")
    options = parser.parse_args()
    HERE.mkdir(exist_ok=True)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=list(QUIET))
        page = browser.new_page(
            viewport={"width": options.width, "height": options.height},
            color_scheme="dark" if options.dark else "light",
        )
        page.goto(f"{options.page.resolve().as_uri()}#{options.state}")
        page.wait_for_timeout(500)
        page.screenshot(path=HERE / f"{options.name}.png")
        browser.close()


if __name__ == "__main__":
    main()
