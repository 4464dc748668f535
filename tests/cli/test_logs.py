from __future__ import annotations

import logging

import pytest

from orchestrator.cli.logs import logging_to_stderr

log = logging.getLogger(__name__)


def test_lines_of_the_level_go_to_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    with logging_to_stderr("warning"):
        log.info("too little")
        log.warning("enough")
    log.error("too late")
    (line,) = capsys.readouterr().err.splitlines()
    assert line.endswith(" WARNING enough")


def test_what_was_set_before_is_set_again_whatever_ends_it() -> None:
    root = logging.getLogger()
    before = root.level, list(root.handlers)
    for level in ("error", "debug"):
        with pytest.raises(ZeroDivisionError), logging_to_stderr(level):
            assert root.level == getattr(logging, level.upper())
            1 / 0  # noqa: B018
    assert (root.level, list(root.handlers)) == before
