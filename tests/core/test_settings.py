"""Settings: verbosity, and values from the environment."""

from __future__ import annotations

import logging
import os
import subprocess
import sys

import pytest

import spared_sc as sp
from spared_sc._core.report import logger


@pytest.mark.parametrize(
    ("value", "name", "shown"),
    [
        ("error", "error", {"error"}),
        (1, "warning", {"error", "warning"}),
        ("Info", "info", {"error", "warning", "info"}),
        ("3", "hint", {"error", "warning", "info"}),
        (4, "debug", {"error", "warning", "info", "debug"}),
    ],
)
def test_verbosity_is_scanpys(value, name, shown, capsys):
    with sp.settings.override(verbosity=value):
        assert sp.settings.verbosity == name
        for level in ("error", "warning", "info", "debug"):
            getattr(logger, level)("a message of level %s", level)
        text = capsys.readouterr().err
        assert {level for level in ("error", "warning", "info", "debug") if f"of level {level}\n" in text} == shown
        assert text.count("ERROR: a message") == 1


def test_without_verbosity_the_logger_is_left_alone(caplog, capsys):
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    for _ in range(2):
        with sp.settings.override(verbosity="info"):
            assert len(logger.handlers) == 1
            assert not logger.propagate
    assert (list(root.handlers), root.level) == (handlers, level)
    assert (logger.handlers, logger.level, logger.propagate) == ([], logging.NOTSET, True)
    with caplog.at_level("INFO", logger="spared_sc"):
        logger.info("for the application")
    assert "for the application" in caplog.text
    assert "for the application" not in capsys.readouterr().err


@pytest.mark.parametrize("value", ["loud", 5, -1, 2.5, True])
def test_unknown_verbosity(value):
    with pytest.raises(ValueError, match="'verbosity': expected 'error', 'warning', 'info', 'hint', 'debug'"):
        sp.settings.verbosity = value
    assert sp.settings.verbosity is None


def test_the_environment_sets_them():
    code = (
        "import spared_sc as sp; print(sp.settings.verbosity, sp.settings.library_key);"
        "sp.pp.normalize_tpm(sp.datasets.synthetic(1, 20, shape=(4, 4), image=False))"
    )
    variables = {"SPARED_SC_VERBOSITY": "2", "SPARED_SC_LIBRARY_KEY": "library_id"}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env={**os.environ, **variables}
    )
    assert done.stdout == "info library_id\n"
    assert 'INFO: added layers["log2tpm"]' in done.stderr
