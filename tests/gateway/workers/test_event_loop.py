"""The event loop's thread goes before other work where it may."""

from __future__ import annotations

import errno
import logging
import os
import threading
from collections.abc import Callable

import pytest

from orchestrator.gateway.workers.event_loop import go_first


def niceness_after(*steps: Callable[[], object]) -> int:
    """Return the niceness of a thread of its own, which Linux keeps for each, after these steps."""
    found: list[int] = []

    def run() -> None:
        for step in steps:
            step()
        found.append(os.getpriority(os.PRIO_PROCESS, 0))

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    return found[0]


@pytest.fixture(autouse=True)
def _is_usual() -> None:
    if os.getpriority(os.PRIO_PROCESS, 0):
        pytest.skip("this was started with a niceness of its own")


def test_a_thread_gets_the_niceness_that_is_asked_for_and_no_other_does() -> None:
    assert niceness_after(lambda: go_first(5)) == 5
    assert os.getpriority(os.PRIO_PROCESS, 0) == 0


def test_who_was_started_with_a_niceness_keeps_it_and_so_does_who_asks_for_none() -> None:
    assert niceness_after(lambda: os.setpriority(os.PRIO_PROCESS, 0, 3), lambda: go_first(5)) == 3
    assert niceness_after(lambda: go_first(None)) == 0


def test_who_may_not_go_first_says_so_with_the_remedy(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(which: int, who: int, niceness: int) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(os, "setpriority", refuse)
    with caplog.at_level(logging.INFO):
        assert niceness_after(lambda: go_first(-5)) == 0
    (said,) = caplog.messages
    assert said.startswith("gateway.nice = -5 is not allowed (Permission denied), it stays 0: ")
    assert "'Nice=-5' (systemd) or CAP_SYS_NICE" in said
