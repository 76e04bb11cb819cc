"""Take the pictures of the README from a report: `python docs/picture.py wslax-run/report.html`.

Needs a Chromium; `CHROMIUM` names another than the one on the path.
"""

import os
import pathlib
import subprocess
import sys
import tempfile

STATIC = pathlib.Path(__file__).parent / "_static"
SIZE = "1120,1108"


def take(report: pathlib.Path, theme: str) -> None:
    """The head of the page in one of its two themes, without the button that changes it."""
    html = report.read_text("utf-8")
    html = html.replace("let chosen = null;", f'let chosen = "{theme}";', 1)
    html = html.replace("</style>", "#theme { visibility: hidden; }</style>", 1)
    with tempfile.TemporaryDirectory() as folder:
        page = pathlib.Path(folder) / "report.html"
        page.write_text(html, "utf-8")
        subprocess.run(
            [
                os.environ.get("CHROMIUM", "chromium"), "--headless", "--no-sandbox",
                "--disable-gpu", "--no-first-run", "--hide-scrollbars", f"--user-data-dir={folder}",
                f"--window-size={SIZE}", f"--screenshot={STATIC / f'report-{theme}.png'}",
                page.as_uri(),
            ],
            check=True, capture_output=True, timeout=120,
        )  # fmt: skip


if __name__ == "__main__":
    for theme in ("light", "dark"):
        take(pathlib.Path(sys.argv[1]), theme)
