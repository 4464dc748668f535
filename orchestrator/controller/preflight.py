"""What is checked before a controller acts: that Triton lets itself be controlled, and that the minimum set fits.

A daemon may be started before its Triton. Then the checks wait for the first answer, and until they have passed no
step observes anything, so nothing is planned on a Triton that would refuse it. After an outage the Triton may be
another one, so its mode and its protocols are checked again.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from orchestrator.controller.demands import Demands
from orchestrator.controller.observer import Observer
from orchestrator.controller.ports import ModelControl
from orchestrator.controller.resolve import check_budget
from orchestrator.errors import ServerUnavailableError
from orchestrator.planner.host import Limits, LoadedModel
from orchestrator.snapshot import ServerName
from orchestrator.telemetry.reading import Telemetry

Check = Callable[[], Awaitable[None]]


class CheckedControl:
    """A ``ModelControl`` that answers only once its checks have passed.

    ``check`` is of the Triton's mode and protocols, and repeated after each failure to answer; ``first_check`` is
    passed once in a life, after ``check``.
    """

    def __init__(self, control: ModelControl, *, check: Check, first_check: Check) -> None:
        self._control = control
        self._check = check
        self._first_check = first_check
        self._is_checked = False
        self._was_checked = False
        # Forwarded as they are; without ``loaded_models`` nothing is planned.
        self.repository_models = control.repository_models
        self.misfits = control.misfits
        self.counters = control.counters
        self.apply = control.apply
        self.unload = control.unload
        self.close = control.close

    async def check(self) -> None:
        """Pass the checks that are due.

        Raises:
            ConfigError: when one fails; says what and the remedy.
            ServerUnavailableError: when Triton does not answer.
        """
        if not self._is_checked:
            await self._check()
            self._is_checked = True
        if not self._was_checked:
            await self._first_check()
            self._was_checked = True

    async def loaded_models(self) -> tuple[LoadedModel, ...]:
        """Return what is loaded, once the checks have passed; see ``ModelControl``.

        Raises:
            ConfigError: when a check fails.
        """
        try:
            await self.check()
            return await self._control.loaded_models()
        except BaseException:  # an observation that was given up says as little of what answers next
            self._is_checked = False
            raise


class BudgetCheck:
    """Looks at the host and checks that the budget can hold the minimum set; to be awaited as a ``Check``.

    A plan loads the minimum set even while memory can't be read, because a host that serves nothing is worse. A
    Triton that has only just started is found a moment later, though, so for ``patience_s`` this calls for another
    look instead. The counters are not read: a metrics port that answers nothing would use up the time in which the
    whole look must be done, and the check would never pass.

    ``control`` is unchecked, ``limits`` returns the limits to keep to now, and ``may_be_resuming`` is that of
    ``check_budget``.
    """

    def __init__(
        self,
        server: ServerName,
        control: ModelControl,
        telemetry: Telemetry,
        *,
        limits: Callable[[], Limits],
        clock: Callable[[], float],
        patience_s: float = 0.0,
        may_be_resuming: bool = False,
    ) -> None:
        self._server = server
        self._observer = Observer(control, telemetry, clock=clock)
        self._limits = limits
        self._clock = clock
        self._patience_s = patience_s
        self._may_be_resuming = may_be_resuming
        self._began_s: float | None = None

    async def __call__(self) -> None:
        """Return when the minimum set fits, as far as can be seen.

        Raises:
            ConfigError: when the minimum set can't fit; names the budget, what is in use and what is needed.
            ServerUnavailableError: when the host can't be observed, or its memory not yet.
        """
        seen = await self._observer.observe(busy_models=frozenset(), demands=Demands(), with_rates=False)
        if seen.snapshot is None:
            raise ServerUnavailableError(seen.trouble or "Triton can't be observed")
        if self._began_s is None:
            self._began_s = self._clock()
        if seen.snapshot.memory_used_bytes is None and self._clock() - self._began_s < self._patience_s:
            reason = seen.reading.memory_used_bytes.reason if seen.reading else "no telemetry"
            raise ServerUnavailableError(f"the memory in use can't be read yet ({reason})")
        check_budget(self._limits(), seen.snapshot, server=self._server, may_be_resuming=self._may_be_resuming)
