"""``slimsched token``: tokens for the gateway's clients."""

from __future__ import annotations

import hashlib
import secrets

import click

from orchestrator.config.tenants import DIGEST_PREFIX, parse_tenants

_RANDOM_BYTES = 32


@click.group()
def token() -> None:
    """Make tokens for the gateway's clients.

    \b
    Example:
      slimsched token new vision
    """


@token.command()
@click.argument("tenant")
def new(tenant: str) -> None:
    """Print a fresh token for TENANT, and the lines to put into the tokens file.

    The token itself is stored nowhere: hand it to the client now. The file needs its digest only.

    \b
    Example:
      slimsched token new vision
    """
    fresh = secrets.token_urlsafe(_RANDOM_BYTES)
    digest = DIGEST_PREFIX + hashlib.sha256(fresh.encode()).hexdigest()
    lines = f"  - name: {tenant}\n    tokens:\n      - {digest}\n"
    parse_tenants(f"tenants:\n{lines}", source=f"the tenant name {tenant!r}")
    click.echo(f"token (shown once, for the client): {fresh}")
    click.echo("under 'tenants:' in the tokens file:")
    click.echo(lines, nl=False)
