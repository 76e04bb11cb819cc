"""Directives whose content comes from the library's own registries."""

from docutils import nodes
from docutils.statemachine import StringList
from sphinx.util.docutils import SphinxDirective
from sphinx.util.nodes import nested_parse_with_titles

from wslax.cli.methods import markdown


class Methods(SphinxDirective):
    """`{methods}`: the table of merging methods, as `wslax methods --markdown` prints it."""

    def run(self):
        node = nodes.section()
        node.document = self.state.document
        lines = StringList(markdown().splitlines(), source="wslax methods")
        nested_parse_with_titles(self.state, lines, node)
        return node.children


def setup(app):
    app.add_directive("methods", Methods)
    return {"parallel_read_safe": True}
