"""Where things stand in the tables on which decisions are made.

Each table holds one kind of thing, a column a field. Everything is a float64: counts are exact up to 2^53, flags are 0
or 1, and NaN says that there is none. Indices of servers, widths and rows count from 0.

- **servers** [field, server]: servers in the order of their names.
- **models** [field, server · columns + column]: what a server serves. The first columns are the widths of the family
  in question, ascending, the same on every server; those behind them hold a server's models of other families.
- **batches** [field, server · depth + place]: what a server has in flight, in the order it was sent.
- **rows** [field, row]: the candidates, ordered by server, then width.
- **query** [field]: what waits, and the uniform random numbers.
- **decision** [field]: what a policy decides, where another one may still decide otherwise.
"""

from __future__ import annotations

from typing import Final

HEALTHY: Final = 0
BATCH_COUNT: Final = 1
BATCH_LIMIT: Final = 2
WAITING_LIMIT: Final = 3
LAST_ANSWER_S: Final = 4  # NaN before the first
HELD_ITEMS: Final = 5  # in flight or bound
BOUND_ITEMS: Final = 6  # of them bound
UTILISATION: Final = 7  # of its device, 0..1; NaN, as the two that follow, while unknown
MEMORY: Final = 8  # part of its device's memory that is used
POWER: Final = 9  # that its device draws, over the most that it has drawn
SERVER_FIELDS: Final = 10

SERVED: Final = 0
ACCURACY: Final = 1
MAX_BATCH: Final = 2
INSTANCES: Final = 3
PER_ITEM_S: Final = 4
FIXED_S: Final = 5
PER_ITEM_J: Final = 6  # NaN while unknown
FIXED_J: Final = 7  # NaN while unknown
MODEL_BOUND_ITEMS: Final = 8
MODEL_WIDTH: Final = 9
MARGIN: Final = 10  # see orchestrator.profile.margin; NaN while unknown
MARGIN_SEEN_S: Final = 11  # when that was last observed
MODEL_FIELDS: Final = 12

COLUMN: Final = 0  # -1 when the server no longer serves it
ITEMS: Final = 1
SENT_S: Final = 2
BEGAN_S: Final = 3  # NaN: see orchestrator.snapshot.BatchInFlight
BATCH_FIELDS: Final = 4

ROW_SERVER: Final = 0
ROW_COLUMN: Final = 1
ROW_WIDTH: Final = 2
ROW_ITEMS: Final = 3
ROW_ACCURACY: Final = 4
ROW_SERVICE_S: Final = 5
ROW_COMPLETION_S: Final = 6
ROW_HEAD_COMPLETION_S: Final = 7
ROW_DRAIN_S: Final = 8
ROW_SERVER_ITEMS: Final = 9
ROW_HAS_ROOM: Final = 10
ROW_WAIT_S: Final = 11
ROW_PER_ITEM_S: Final = 12
ROW_FIXED_S: Final = 13
ROW_MAX_BATCH: Final = 14
ROW_INSTANCES: Final = 15
ROW_OVERDUE_RATIO: Final = 16
ROW_PER_ITEM_J: Final = 17  # NaN while unknown
ROW_FIXED_J: Final = 18  # NaN while unknown
ROW_BACKLOG_S: Final = 19  # work the whole server has, bound work included
ROW_MARGIN: Final = 20  # expected times are multiplied by it; NaN: SLACK_MARGIN
ROW_UTILISATION: Final = 21  # of the server's device; NaN, as the two that follow, while unknown
ROW_MEMORY: Final = 22
ROW_POWER: Final = 23
ROW_FIELDS: Final = 24

NOW_S: Final = 0
SLACK_MARGIN: Final = 1
QUEUE_ITEMS: Final = 2
HEAD_ITEMS: Final = 3
HEAD_DEADLINE_S: Final = 4
TAIL_DEADLINE_S: Final = 5
MIN_ACCURACY: Final = 6
TURN: Final = 7
FIRST_UNIFORM: Final = 8
SECOND_UNIFORM: Final = 9
MAX_PER_ITEM_J: Final = 10  # infinite when the head sets no bound
PRIORITY: Final = 11
PREFER_ACCURACY: Final = 12  # NaN, and the two that follow, when the head has no preference
PREFER_LATENCY: Final = 13
PREFER_ENERGY: Final = 14
HEAD_ARRIVED_S: Final = 15  # NaN while unknown
REFUSES_LATE: Final = 16  # 1 when the head is refused once its deadline can't be kept
SERVERS_SHARE: Final = 17  # part of the servers' time that the queue can count on, above 0 and at most 1
ARRIVED_ITEMS: Final = 18  # of the family, since the router began
ONLY_WIDTH: Final = 19  # the only one that the policy takes, see orchestrator.policies.rule.only_width; NaN: any
OTHER_QUEUES: Final = 20  # that wait besides the head's own
OTHER_ITEMS: Final = 21  # that wait in those
QUERY_FIELDS: Final = 22

DECIDED_ROW: Final = 0  # or HOLD, REJECT
DECIDED_ITEMS: Final = 1
DECIDED_UNTIL_S: Final = 2  # while it holds
DECISION_FIELDS: Final = 3
