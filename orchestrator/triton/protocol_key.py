"""The key that opens Triton's restricted protocols.

``tritonserver --grpc-restricted-protocol=model-repository,model-config,statistics:KEY=VALUE`` answers calls of those
groups only when their metadata has ``triton-grpc-protocol-KEY: VALUE``. The pair is read from a file, because what
stands in a command line or a fleet.yaml is read by others.
"""

from __future__ import annotations

import re
from pathlib import Path

from orchestrator.errors import ConfigError
from orchestrator.files import read_file

HEADER_PREFIX = "triton-grpc-protocol-"
_KEY = re.compile(r"[0-9a-z_.-]+")  # what gRPC allows in a metadata key; capitals can't arrive at Triton
_MOST_BYTES = 2**16
_VALUE = re.compile(r"[\x21-\x7e](?:[\x20-\x7e]*[\x21-\x7e])?")


def read_protocol_key(path: Path | None) -> tuple[str, str] | None:
    """Return key and value from a file with one line ``KEY=VALUE``; None without a file.

    Raises:
        ConfigError: The file can't be read or holds something else; the value is never in the message.
    """
    if path is None:
        return None
    try:
        lines = read_file(path, most_bytes=_MOST_BYTES).decode().split("\n")
    except FileNotFoundError:
        raise ConfigError(f"no protocol key file at {path}; write one line KEY=VALUE into it") from None
    except (OSError, UnicodeDecodeError) as exc:
        raise ConfigError(f"can't read protocol key file {path} ({exc})") from exc
    filled = [line.strip() for line in lines if line.strip()]
    key, separator, value = filled[0].partition("=") if len(filled) == 1 else ("", "", "")
    if not separator:
        raise ConfigError(
            f"protocol key file {path} must hold one line KEY=VALUE, as given to --grpc-restricted-protocol"
        )
    if not _KEY.fullmatch(key):
        raise ConfigError(
            f"protocol key file {path}: key {key!r} can't be sent over gRPC; use lower-case letters, digits and '_.-', "
            "and the same with --grpc-restricted-protocol"
        )
    if not _VALUE.fullmatch(value):
        raise ConfigError(f"protocol key file {path}: the value of {key!r} must be printable ASCII and not empty")
    return key, value


def render_headers(protocol_key: tuple[str, str] | None) -> dict[str, str]:
    """Return the metadata that every call has to carry; empty without a key."""
    if protocol_key is None:
        return {}
    key, value = protocol_key
    return {f"{HEADER_PREFIX}{key}": value}
