"""The events of a router, for whoever counts them: the gateway's metrics, a test.

Calls come from the event loop in the middle of routing, so an observer must be quick and must not raise. They are few:
one a decision, two a batch, and one for each thing that goes wrong; none for a request that is simply answered,
because its Answer says it all. ``RouterObserver`` itself does nothing, so that an observer needs no more than what it
is interested in and the router no check for None.
"""

from __future__ import annotations

from orchestrator.snapshot import ServerName, Width


class RouterObserver:
    """Callbacks that do nothing; to be derived from."""

    def on_background_failure(self, task: str) -> None:
        """Note that work in the background failed unexpectedly and begins again."""

    def on_decision(self, policy_s: float) -> None:
        """Note that a policy was asked, and how long it took."""

    def on_fallback(self, reason: str) -> None:
        """Note that the fallback decided in place of the policy, and why, in one word."""

    def on_shadow(self, outcome: str) -> None:
        """Note that the shadow policy was asked too: it would have done the ``same``, ``other``, or had a ``fault``."""

    def on_shed(self, reason: str, items: int) -> None:
        """Note that an accepted request, or one that came, is not served, and why, in one word."""

    def on_sent(self, server: ServerName, width: Width, items: int) -> None:
        """Note that a batch was sent."""

    def on_ended(self, server: ServerName, width: Width, items: int) -> None:
        """Note that a batch that was sent has ended, well or not."""

    def on_retry(self, server: ServerName) -> None:
        """Note that a request whose attempt on ``server`` failed or is overdue waits for another attempt."""

    def on_hedge(self, server: ServerName) -> None:
        """Note that a second copy of a request that ``server`` has waits for another server."""

    def on_ejection(self, server: ServerName, reason: str) -> None:
        """Note that a server, or a width on it, is not sent to any more, and why, in one word."""

    def on_readmission(self, server: ServerName) -> None:
        """Note that a server that was ejected or did not answer is sent to again."""

    def on_wrong_answer(self, server: ServerName, width: Width) -> None:
        """Note that a server answered the golden probe wrong, and is not sent that width any more."""
