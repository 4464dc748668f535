"""Results of jobs that are kept in a file as they come, so that an interruption loses at most what was under way."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from pydantic import TypeAdapter

from orchestrator.errors import ConfigError
from orchestrator.executors import Executor, Job, Result
from orchestrator.policies.tables.compiled import SOURCE_DIGEST
from orchestrator.reporting.journal import Journal, differences

_REMEDY: Final = "remove it to begin anew"


@contextmanager
def keep_results(out: Path | None, about: Mapping[str, Any], kind: Any, execute: Executor) -> Iterator[Executor]:
    """Yield what runs the jobs of one ``run_in_order``, those only whose results are not kept in ``OUT.partial``.

    The file is removed where the block ends well. Without ``out`` nothing is kept.

    Args:
        out: Where the command writes what it has found.
        about: What the results follow from, beside the code, as values of JSON.
        kind: The type of a result, which pydantic can make of JSON.
        execute: What runs the jobs.

    Raises:
        ConfigError: The file can't be used, or is about something else.
    """
    if out is None:
        yield execute
        return
    path, adapter = out.with_name(out.name + ".partial"), TypeAdapter[Any](kind)
    binding = {"code": SOURCE_DIGEST, **about}
    kept: dict[int, Any] = {}

    def replay(number: int, values: Any) -> None:
        if number > 1:
            kept[int(values["job"])] = adapter.validate_python(values["result"])
            return
        for key, was, now in differences(values, binding):
            raise ConfigError(f"{path} was begun with {key} = {was}, now it is {now}; {_REMEDY}")

    with Journal(path, replay, remedy=_REMEDY) as journal:
        if journal.is_new:
            journal.write(binding)

        def execute_missing(run: Callable[[Job], Result], jobs: Iterable[Job], /) -> Iterator[tuple[Job, Result]]:
            numbered: list[Any] = list(jobs)
            yield from ((job, kept[job[0]]) for job in numbered if job[0] in kept)
            for job, result in execute(run, [job for job in numbered if job[0] not in kept]):
                journal.write({"job": job[0], "result": adapter.dump_python(result, mode="json")})
                yield job, result

        try:
            yield execute_missing
        except KeyboardInterrupt:
            raise KeyboardInterrupt(f"the same command goes on from {path}") from None
    path.unlink(missing_ok=True)
