from __future__ import annotations

import json
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


def test_fields_are_names_and_values_behind_the_message(capsys: pytest.CaptureFixture[str]) -> None:
    with logging_to_stderr("info", worker=3):
        log.info("request", extra={"fields": {"model": "fashion", "latency_s": 0.0123456789, "tenant": None}})
        log.info("request", extra={"fields": {"request_id": 'x" level=ERROR\n2026 ERROR forged'}})
    first, second = capsys.readouterr().err.splitlines()
    assert first.endswith(" INFO worker 3: request model=fashion latency_s=0.0123457")
    assert second.endswith(r'request request_id="x\" level=ERROR\n2026 ERROR forged"')


def test_text_that_is_no_unicode_is_written_all_the_same(capsys: pytest.CaptureFixture[str]) -> None:
    extra = {"fields": {"size": 2**70}}
    record = log.makeRecord(log.name, logging.INFO, __file__, 1, "can't read %s", ("a\udcff.pbtxt",), None, extra=extra)
    with logging_to_stderr("info", "json"):  # past pytest's own handlers, whose workers can't send such a text
        logging.getLogger().handlers[-1].handle(record)
    [line] = capsys.readouterr().err.splitlines()
    assert json.loads(line)["message"] == "can't read a\udcff.pbtxt"


def test_json_has_an_object_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    with logging_to_stderr("info", "json", worker=3):
        log.info("request of %s", "a\nb", extra={"fields": {"width": 50, "tenant": None}})
        try:
            1 / 0  # noqa: B018
        except ZeroDivisionError:
            log.exception("failed")
    first, second = map(json.loads, capsys.readouterr().err.splitlines())
    assert first.pop("unix_s") > 1.7e9
    assert first == {"level": "info", "logger": __name__, "worker": 3, "message": "request of a\nb", "width": 50}
    assert "ZeroDivisionError" in second["traceback"]
