"""Directives whose content comes from the library's own registries."""

import dataclasses

import yaml
from docutils import nodes
from docutils.statemachine import StringList
from sphinx.util.docutils import SphinxDirective
from sphinx.util.nodes import nested_parse_with_titles

from wslax.cli.methods import markdown
from wslax.recipes.tour import TourConfig


class Methods(SphinxDirective):
    """`{methods}`: the table of merging methods, as `wslax methods --markdown` prints it."""

    def run(self):
        node = nodes.section()
        node.document = self.state.document
        lines = StringList(markdown().splitlines(), source="wslax methods")
        nested_parse_with_titles(self.state, lines, node)
        return node.children


class TourSettings(SphinxDirective):
    """`{tour-settings}`: every setting of the tour with its default, as the YAML of `--config`."""

    def run(self):
        settings = dataclasses.asdict(TourConfig())
        text = yaml.safe_dump(_plain(settings), sort_keys=False, default_flow_style=None)
        return [nodes.literal_block(text, text, language="yaml")]


def _plain(value):
    if isinstance(value, dict):
        return {key: _plain(inner) for key, inner in value.items()}
    return list(value) if isinstance(value, tuple) else value


def setup(app):
    app.add_directive("tour-settings", TourSettings)
    app.add_directive("methods", Methods)
    return {"parallel_read_safe": True}
