"""TLS for both transports, with certificates that may change while the gateway runs.

A listening socket keeps the context it was opened with, so that context does nothing but hand each new handshake to the
newest one. Loading new files into the old context instead would leave it half changed when the second file is bad, and
could never take a client authority away. Connections that stand are not touched. Where clients have to show a
certificate no tickets are given, because a resumed handshake is not checked against the authorities again. The
sessions that TLS 1.2 resumes without a ticket are kept in the context that made them, and go with it.
"""

from __future__ import annotations

import ssl
from collections.abc import Callable
from pathlib import Path
from typing import Any

from orchestrator.config import TlsSettings
from orchestrator.errors import ConfigError
from orchestrator.files import stamp_of

HTTP2, HTTP1 = "h2", "http/1.1"
# Of TLS 1.2: forward secrecy and authenticated encryption, as RFC 9113 wants for HTTP/2. TLS 1.3 has no others.
_CIPHERS = "ECDHE+AESGCM:ECDHE+CHACHA20"
_VERSIONS = {"1.2": ssl.TLSVersion.TLSv1_2, "1.3": ssl.TLSVersion.TLSv1_3}


class TlsFiles:
    """Certificate, key and client authorities of a gateway; raises ConfigError when they can't be used.

    Attributes:
        stamps: Those of the files from before they were first read.
    """

    def __init__(self, settings: TlsSettings) -> None:
        self._settings = settings
        self.stamps = tuple(map(stamp_of, self.paths))
        self._newest = {protocol: self._build(protocol) for protocol in (HTTP2, HTTP1)}

    @property
    def paths(self) -> tuple[Path, ...]:
        """The paths of the files."""
        of = self._settings
        return (of.certificate, of.key, *([of.client_ca] if of.client_ca is not None else []))

    def context(self, protocol: str) -> ssl.SSLContext:
        """Return a context to listen with, for HTTP2 or HTTP1; its handshakes always use the files read last."""
        context = _Listening(ssl.PROTOCOL_TLS_SERVER)
        context.newest = lambda: self._newest[protocol]
        return context

    def refresh(self) -> None:
        """Read the files again, for handshakes from now on; raises ConfigError, and changes nothing, if bad."""
        self._newest = {protocol: self._build(protocol) for protocol in self._newest}

    def _build(self, protocol: str) -> ssl.SSLContext:
        of = self._settings
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = _VERSIONS[of.minimum_version]
        context.options |= ssl.OP_NO_RENEGOTIATION
        context.set_ciphers(_CIPHERS)
        context.set_alpn_protocols([protocol])
        try:
            # Without a password at hand OpenSSL would ask for one on the terminal.
            context.load_cert_chain(of.certificate, of.key, password=_no_password)
        except OSError as exc:  # ssl.SSLError is one
            raise ConfigError(
                f"can't use gateway.tls.certificate {of.certificate} with gateway.tls.key {of.key} ({_reason(exc)}); "
                "give a PEM chain and its key, without a passphrase"
            ) from exc
        if of.client_ca is not None:
            try:
                context.load_verify_locations(of.client_ca)
            except OSError as exc:
                raise ConfigError(
                    f"can't use gateway.tls.client_ca {of.client_ca} ({_reason(exc)}); give PEM certificates"
                ) from exc
            context.verify_mode = ssl.CERT_REQUIRED
            context.num_tickets = 0
            context.options |= ssl.OP_NO_TICKET
        return context


class _Listening(ssl.SSLContext):
    """Leaves each handshake to another context, with all that it remembers of earlier ones."""

    newest: Callable[[], ssl.SSLContext]

    def wrap_bio(self, *args: Any, **more: Any) -> ssl.SSLObject:
        return self.newest().wrap_bio(*args, **more)


def _no_password() -> str:
    return ""


def _reason(error: OSError) -> str:
    if isinstance(error, ssl.SSLError):
        return (error.reason or "no PEM data").lower().replace("_", " ")
    return error.strerror or str(error)
