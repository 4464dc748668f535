"""Every error the orchestrator raises, split by what the caller can do about it.

A message is one line and says what was tried, with which value, against which limit, and what to do.
Foreign exceptions (gRPC, operating system, ONNX Runtime) are translated by the adapter that meets them and
chained with ``from``; status codes of a transport never appear here.
"""

from __future__ import annotations

from collections.abc import Sequence


class SlimError(Exception):
    """Base of every expected failure; the command line prints it as one line."""


class ConfigError(SlimError):
    """What the user wrote can't be used: a file, a flag, an image, a repository. Retrying is useless."""


class SettingsError(ConfigError):
    """Keys or values of a settings file are not allowed.

    Attributes:
        problems: All that is wrong, a line each, of which the message lists the first.
    """

    def __init__(self, message: str, problems: Sequence[str]) -> None:
        super().__init__(message)
        self.problems = tuple(problems)


class NotKeptError(ConfigError):
    """What a long run has done can't be written down; with room for it the same command goes on."""


class UntrustedError(SlimError):
    """A learned policy was shown what it was not trained on, so another one should decide."""


class PermanentError(SlimError):
    """The other side understood and refused; the same call will fail again."""


class ModelNotFoundError(PermanentError):
    """No server of the fleet has the model, family or width that was asked for."""


class TransientError(SlimError):
    """The same call may succeed later or on another server.

    Attributes:
        executed: False when the server certainly did not run the request, so a retry can't run it twice.
    """

    def __init__(self, message: str, *, executed: bool = True) -> None:
        super().__init__(message)
        self.executed = executed


class ServerUnavailableError(TransientError):
    """A server can't be reached, is starting or is going down."""


class ConnectionLostError(ServerUnavailableError):
    """The connection broke while a call was under way: it may have run, but its answer can't come any more."""


class WrongAnswerError(TransientError):
    """A server answered, and what it answered can't be right."""


class DeadlineError(TransientError):
    """The time allowed for a call ran out before its answer came.

    Attributes:
        sent_to: The server, and the width in percent there, that had it last; None where none had, or nobody knows.
    """

    def __init__(self, message: str, *, executed: bool = True, sent_to: tuple[str, int] | None = None) -> None:
        super().__init__(message, executed=executed)
        self.sent_to = sent_to


class CapacityError(TransientError):
    """A queue or budget is full, or the answer could not come in time; the request was not run.

    Attributes:
        retry_after_s: The time after which it may be accepted; None when nobody can say.
    """

    def __init__(self, message: str, *, retry_after_s: float | None = None) -> None:
        super().__init__(message, executed=False)
        self.retry_after_s = retry_after_s


class EmbeddedServerError(SlimError):
    """The local tritonserver could not be started or went away; carries the reason from its log."""
