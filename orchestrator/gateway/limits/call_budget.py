"""How many calls are under way for each model that is passed through, so that one that hangs leaves room for others.

Places are shared by a dynamic threshold (Choudhury and Hahne 1998): a model may have as many as are left free. So one
alone has half of them, two that ask at once a third each, and each that hangs leaves half of what it found to others,
without anybody saying beforehand which models there are.

A call has its place until the server has answered, even when nobody waits for the answer any more: Triton still has
it. Else the callers of a hung model, each with a deadline of its own, would pile up calls in Triton without end.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

from orchestrator.config import GatewaySettings, PassthroughModelSettings
from orchestrator.errors import CapacityError

_DEFAULT = PassthroughModelSettings(name="any")


class CallBudget:
    """The places, and the settings that bound each model's calls in number and time."""

    def __init__(self, settings: GatewaySettings) -> None:
        self._places = settings.pass_on_calls
        self._timeout_s = settings.pass_on_timeout_s
        self._models = {model.name: model for model in settings.pass_on_models}
        self._taken: Counter[str] = Counter()

    def time_limit(self, model: str) -> tuple[float | None, str]:
        """Return how long a call of a model may take, None for any time, and the setting that says so."""
        own_s = self._models.get(model, _DEFAULT).timeout_s
        if own_s is not None:
            return own_s, f"gateway.pass_on_models[{model}].timeout_s = {own_s:g}"
        limit = "null" if self._timeout_s is None else f"{self._timeout_s:g}"
        return self._timeout_s, f"gateway.pass_on_timeout_s = {limit}"

    def take(self, model: str) -> Callable[[], None]:
        """Take a place for a call and return what gives it back, to be called once.

        Raises:
            CapacityError: when the model has its share.
        """
        taken, free = self._taken[model], self._places - self._taken.total()
        own = self._models.get(model, _DEFAULT).max_calls
        if own is not None and taken >= own:
            raise _refusal(model, taken, f"gateway.pass_on_models[{model}].max_calls = {own}")
        if taken >= free:
            raise _refusal(model, taken, f"{free} of gateway.pass_on_calls = {self._places} are left for all others")
        self._taken[model] += 1
        return lambda: self._give_back(model)

    def _give_back(self, model: str) -> None:
        self._taken[model] -= 1
        if not self._taken[model]:
            del self._taken[model]  # a client must not fill the memory with names


def _refusal(model: str, taken: int, limit: str) -> CapacityError:
    return CapacityError(
        f"model '{model}' has {taken} calls under way, those that nobody waits for any more included; {limit}; "
        "ask again when some have ended, raise the limit, or restart the model's server if it hangs"
    )
