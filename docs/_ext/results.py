"""Sphinx extension: values and tables from the result files of the measurements.

A role for one value, `` {result}`completion.overall regime=detected sets=all: {ratio:.3f}` ``, and a directive for a table,
whose body names the columns. `measurements/_results.py` explains the requests; one that finds nothing is an error.
"""

from __future__ import annotations

import sys
from pathlib import Path

from docutils import nodes
from docutils.statemachine import StringList
from sphinx.util.docutils import SphinxDirective, SphinxRole

sys.path.insert(0, str(Path(__file__).parents[2] / "measurements"))
import _results


def note_file(env, request):
    """Build the page anew when the result file changes."""
    env.note_dependency(str(_results.FOLDER / f"{request.partition('.')[0]}.json"))


class ResultRole(SphinxRole):
    """One value in a sentence."""

    def run(self):
        note_file(self.env, self.text)
        try:
            return [nodes.Text(_results.fill(self.text))], []
        except (KeyError, ValueError) as error:
            message = self.inliner.reporter.error(str(error), line=self.lineno)
            return [self.inliner.problematic(self.rawtext, self.rawtext, message)], [message]


class ResultsDirective(SphinxDirective):
    """A table, and below it how it was measured."""

    required_arguments = 1
    final_argument_whitespace = True
    has_content = True

    def run(self):
        request = self.arguments[0]
        note_file(self.env, request)
        try:
            lines = _results.markdown(request, "\n".join(self.content)).splitlines()
        except (KeyError, ValueError) as error:
            raise self.error(str(error)) from error
        container = nodes.container()
        self.state.nested_parse(StringList([*lines, "", _results.source(request)]), self.content_offset, container)
        container.children[-1]["classes"].append("measured")
        return container.children


def setup(app):
    """Register both."""
    app.add_role("result", ResultRole())
    app.add_directive("results", ResultsDirective)
    return {"parallel_read_safe": True}
