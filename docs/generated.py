"""Write into the pages what the library itself knows: `python docs/generated.py`.

The pages stay plain Markdown, to be read anywhere; a test fails when one of them is behind.
"""

import dataclasses
import pathlib
import re

import yaml

from wslax.cli.methods import markdown
from wslax.recipes.result import plain
from wslax.recipes.tour import TourConfig

DOCS = pathlib.Path(__file__).parent


def settings() -> str:
    """Every setting of the tour with its default, as the YAML of `--config`."""
    values = plain(dataclasses.asdict(TourConfig()))
    text = yaml.safe_dump(values, sort_keys=False, default_flow_style=None)
    return f"```yaml\n{text}```"


PARTS = {"methods.md": markdown, "tour.md": settings}


def page(name: str) -> str:
    """The page with its part, between the two markers, written anew."""
    text = (DOCS / name).read_text("utf-8")
    part = f"<!-- generated -->\n\n{PARTS[name]()}\n\n<!-- end -->"
    return re.sub("<!-- generated -->.*<!-- end -->", lambda _: part, text, flags=re.DOTALL)


if __name__ == "__main__":
    for name in PARTS:
        (DOCS / name).write_text(page(name), "utf-8")
