"""Which tests run: those on a real tritonserver only when asked for, and never skipped without saying why."""

from __future__ import annotations

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--integration", action="store_true", help="run the tests that start a real tritonserver")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if config.getoption("--integration"):
        return
    skip = pytest.mark.skip(reason="starts a real tritonserver; run with --integration or 'make integration'")
    for item in items:
        if "integration" in item.keywords:
            item.add_marker(skip)
