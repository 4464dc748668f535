"""As many file descriptors as the system allows: a thousand connections are more than most shells' soft limit."""

from __future__ import annotations

import resource


def raise_descriptor_limit() -> None:
    """Raise this process's soft limit of file descriptors to the hard one."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
