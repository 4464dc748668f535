"""What one of several workers may take of limits that hold for all of them.

Each worker has a router of its own and knows only its own batches and queues. So limits on amounts are divided: the
waiting items and their bytes, the requests that may be sent again whatever the traffic, and the batches a server holds
(by at least one each, so a server may hold as many batches as there are workers). Ratios (retries to traffic) need no
division, and neither do times.
"""

from __future__ import annotations

from orchestrator.config import RouterSettings


def share_router(settings: RouterSettings, workers: int) -> RouterSettings:
    """Return the router's settings for one of so many workers."""
    overload, retries = settings.overload, settings.retries
    return settings.model_copy(
        update={
            "queue_limit": divide(settings.queue_limit, workers),
            "overload": overload.model_copy(update={"queue_limit_mib": overload.queue_limit_mib / workers}),
            "retries": retries.model_copy(
                update={"minimum": divide(retries.minimum, workers), "burst": divide(retries.burst, workers)}
            ),
            "in_flight_groups": divide(settings.in_flight_groups, workers),
        }
    )


def divide(amount: int, workers: int) -> int:
    """Return a worker's part of an amount, rounded up, so that nobody has none."""
    return -(-amount // workers)
