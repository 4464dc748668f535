"""The tokens file: who may call the gateway, and how much.

It holds digests of tokens and no token, so that reading it opens nothing; errors quote nothing of it all the same,
because a token may have been pasted where its digest belongs. A file of its own, because it changes while the gateway
runs and is usually a secret of the platform.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

from pydantic import Field

from orchestrator.config.section import Name, Section, parse_settings
from orchestrator.errors import ConfigError
from orchestrator.files import read_file
from orchestrator.validation import Distinct, Spelling

_KEY = "gateway.auth.tokens_file"
DIGEST_PREFIX = "sha256:"
_MOST_BYTES = 2**20
"""Largest tokens file. Every token costs each request a third of a microsecond; long before this a proxy is better."""

Digest = Annotated[
    str, Spelling(r"^sha256:[0-9a-f]{64}$", "sha256: and 64 hexadecimal digits, as 'slimsched token new' prints")
]


class TenantSettings(Section):
    """One tenant; its quotas are over all of its tokens."""

    name: Name = Field(max_length=64)
    """Unique in the file; a label of metrics. Letters, digits, dots, underscores and hyphens, at most 64."""
    tokens: tuple[Digest, ...]
    """``sha256:`` and the digest in hexadecimal, as ``slimsched token new`` prints it. Several, so that one can be
    replaced while the other is in use; none at all shuts the tenant out."""
    requests_per_s: float | None = Field(default=None, gt=0)
    """Inferences a second in the long run; None: unbounded."""
    requests_burst: int | None = Field(default=None, ge=1)
    """Inferences that may come at once after a pause; None: a second's worth."""
    items_per_s: float | None = Field(default=None, gt=0)
    """Items of families a second, a request of batch 8 being eight; one of another model counts as one. None:
    unbounded."""
    items_burst: int | None = Field(default=None, ge=1)
    """Items that may come at once, and so the largest batch; None: a second's worth."""
    concurrent_requests: int | None = Field(default=None, ge=1)
    """Inferences that its callers wait for at a time; what one has given up a Triton may still run, within
    ``pass_on_calls``. None: unbounded."""
    highest_priority: int = Field(default=1, ge=1)
    """Highest priority of its requests for families. 1 is the highest there is, as in Triton, so 3 refuses 1 and 2."""
    models: tuple[str, ...] | None = Field(default=None, min_length=1)
    """Families and other models that it may use and see; None: all."""
    sees_status: bool = False
    """Whether its tokens open the status page, all of it, where ``gateway.auth.open_status`` is false."""

    def _contradictions(self) -> Iterator[str]:
        for what in ("requests", "items"):
            if getattr(self, f"{what}_burst") is not None and getattr(self, f"{what}_per_s") is None:
                yield f"{what}_burst bounds nothing without {what}_per_s; give both or neither"


class TenantsSettings(Section):
    """All of the tokens file."""

    tenants: Annotated[tuple[TenantSettings, ...], Distinct(("name", "tokens.*"))] = Field(min_length=1)


def parse_tenants(text: str, *, source: str = "tokens.yaml") -> tuple[TenantSettings, ...]:
    """Return the tenants that the YAML ``text`` spells; raises ConfigError, which quotes nothing of the text."""
    return parse_settings(TenantsSettings, text, source=source, start="tenants", is_secret=True).tenants


def load_tenants(path: Path) -> tuple[TenantSettings, ...]:
    """Return the tenants of a tokens file; raises ConfigError when it can't be read, is too large, or not allowed."""
    try:
        text = read_file(path, most_bytes=_MOST_BYTES).decode()
    except FileNotFoundError:
        # A volume of a secret is a folder with a file for each key.
        where = (
            f"its folder is there; if that is a secret's, give the secret the key {path.name}"
            if path.parent.is_dir()
            else f"nor a folder {path.parent}; mount the secret there, or correct the path"
        )
        raise ConfigError(
            f"{_KEY}: there is no tokens file {path}, {where}; 'slimsched token new TENANT' prints what belongs into it"
        ) from None
    except OSError as exc:
        raise ConfigError(f"{_KEY}: can't read the tokens file {path} ({exc.strerror or exc})") from exc
    except UnicodeDecodeError:
        raise ConfigError(f"the tokens file {path} is no UTF-8 text") from None
    return parse_tenants(text, source=str(path))
