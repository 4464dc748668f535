"""The errors of training and export; each message is one line that ends in what to do."""

from importlib.metadata import EntryPoint
from typing import Any


class ExportError(Exception):
    """Base of every expected failure in this package; the command line prints it as one line."""


class DataUnavailableError(ExportError):
    """The data set is not on this machine and can't be downloaded."""


class CheckpointError(ExportError):
    """A checkpoint is missing, truncated, foreign or lacks what was asked of it."""


class WidthError(ExportError):
    """A width ratio can't be parsed, is out of range or is not one the network was trained for."""


class NetworkError(ExportError):
    """A network can't be made, or is not what the protocol of slimmable networks asks for."""


class ParityError(ExportError):
    """The exported graph does not compute what the trained network computes."""


class RepositoryError(ExportError):
    """A model repository can't be written, or holds something else than its files claim."""


class VariantError(ExportError):
    """A variant, the data or the metric that it is measured with can't be used."""


def load_function(option: str, place: str, error: type[ExportError]) -> Any:
    """Return the user's function of the name ``package.module:function``; raises ``error`` when there is none."""
    if EntryPoint.pattern.match(place) is None:
        raise error(f"{option} {place}: has not the form package.module:function; give it so")
    try:
        function = EntryPoint(place, place, "").load()
    except (Exception, SystemExit) as exc:  # a module of the user's may raise anything
        raise error(
            f"{option} {place}: can't be imported ({type(exc).__name__}: {one_line(exc)}); give "
            "package.module:function, and start where the module lies, or install it"
        ) from exc
    if not callable(function):
        raise error(f"{option} {place}: is a {type(function).__name__} and no function; give another")
    return function


def one_line(exc: BaseException) -> str:
    """Return what an exception says in one line, and of a long one the beginning."""
    return " ".join(str(exc).split())[:200]
