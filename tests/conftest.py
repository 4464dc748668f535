"""Which tests run, on which event loop, and on which examples.

Tests on a real tritonserver run only when asked for, and are never skipped without saying why. Modules of minutes go
first: left for the end, one of them would keep one process busy while the other has nothing to do. Hypothesis draws the
same examples each time, so that what passed once passes again, and gives none of them a time limit: how busy a machine
is says nothing of the code. ``pytest --hypothesis-profile explore`` draws new ones.
"""

from __future__ import annotations

import asyncio
import gc
import signal
from collections.abc import Callable, Generator, Iterator, Mapping

import pytest
from hypothesis import HealthCheck, settings

from orchestrator.router import compile_ahead
from tests.fakes.virtual_time import new_virtual_loop
from tests.tritons import Tritons

settings.register_profile("explore", deadline=None, print_blob=True, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("repeat", settings.get_profile("explore"), derandomize=True, database=None)
settings.load_profile("repeat")


def pytest_configure() -> None:
    """Let children be interrupted where this process can't be: a shell's background job, or one under nohup."""
    for number, action in ((signal.SIGINT, signal.default_int_handler), (signal.SIGHUP, signal.SIG_DFL)):
        if signal.getsignal(number) is signal.SIG_IGN:
            signal.signal(number, action)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--integration", action="store_true", help="run the tests that start a real tritonserver")
    parser.addoption("--containers", action="store_true", help="run the tests that play pods with podman")


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """Import every test module, and so compile its assertions, without collecting garbage meanwhile.

    WORKAROUND(CPython before 3.11.8): all syntax trees under construction share one depth counter (gh-106905). Garbage
    collected in the midst of one may run a finalizer, or let another thread run; when that formats a traceback, which
    parses the line it shows, the import fails with "AST constructor recursion depth mismatch". For the same reason
    test modules import at their top what pytest rewrites. Each process of pytest-xdist comes here for itself.
    """
    gc.disable()
    try:
        return (yield)
    finally:
        gc.enable()


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    reasons = {
        "integration": "starts a real tritonserver; run with --integration or 'make integration'",
        "containers": "plays pods with podman; run 'make containers', which builds their images",
    }
    for marker, reason in reasons.items():
        if not config.getoption(f"--{marker}"):
            for item in items:
                if marker in item.keywords:
                    item.add_marker(pytest.mark.skip(reason=reason))
    items.sort(key=lambda item: "long" not in item.keywords)


@pytest.fixture(scope="session", autouse=True)
def decisions_are_compiled() -> None:
    """Half a minute once for a version of the sources, and not in the first test that decides in virtual time.

    Of several processes that run tests, one compiles and the others wait for it.
    """
    asyncio.run(compile_ahead())


@pytest.fixture(scope="session")
def tritons() -> Iterator[Tritons]:
    """Real Tritons, which end while the next test runs."""
    with Tritons() as running:
        yield running


def pytest_asyncio_loop_factories(
    config: pytest.Config, item: pytest.Item
) -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    if item.get_closest_marker("virtual_time"):
        return {"virtual": new_virtual_loop}
    return {"asyncio": asyncio.new_event_loop}
