import pytest

from orchestrator.processes.exit_codes import describe_exit_code


@pytest.mark.parametrize(
    ("code", "text"),
    [(1, "exited with status 1"), (-9, "was killed by SIGKILL"), (None, "lost its guardian process and was stopped")],
)
def test_exits_are_described(code: int | None, text: str) -> None:
    assert describe_exit_code(code) == text
