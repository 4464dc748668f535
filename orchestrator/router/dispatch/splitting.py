"""Into how many batches what waits is cut when one could take all of it; pure.

A server that is given all that waits at once idles while the answers travel to the callers and their next requests
back; and callers that are answered together ask together again, so it goes on like that. So what waits is spread evenly
over the batches that the server may still be sent: while one part runs, another one's answers are on their way. Where
the batches wait for each other in Triton its own batcher joins them again.

That is worth it where a batch takes no more than some turn-arounds; an idle millisecond in a hundred is not. And no
part is so small that its fixed cost is more than that of its items. Times are the fit's a·n + b. A simulator has no use
for it, because nothing travels there.
"""

from __future__ import annotations

import math

from orchestrator.router.servers.connection import SHORT_S

_FEWEST = 8
"""Of one fit with batches of the same size nothing is known of b, and each part costs the router a decision."""


def part_of(waiting: int, free: int, per_item_s: float, fixed_s: float) -> int:
    """Return how many of the items that wait go into the next batch.

    Args:
        waiting: The items that wait, all of which one batch may hold.
        free: The batches that the server may be sent now, at least 1.
        per_item_s: The time of an item there; 0 while unknown.
        fixed_s: The time of a batch besides.
    """
    if per_item_s <= 0 or per_item_s * waiting + fixed_s > SHORT_S or fixed_s >= per_item_s * waiting:
        return waiting
    fewest = max(_FEWEST, math.ceil(fixed_s / per_item_s))
    return min(waiting, max(fewest, math.ceil(waiting / free)))
