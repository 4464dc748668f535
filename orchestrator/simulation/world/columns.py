"""Where things stand in the tables of a simulated world, beside those of orchestrator.policies.tables.columns.

- **requests** [field, request]: in the order of their arrival; what happened to each is written here too.
- **truth** [field, server] and **models** [field, server · columns + width]: what servers really are and did, which
  the router does not know.
- **held** [field, server · depth + place]: beside the router's ``batches``, what it does not know of them.
- **events** [field, place]: a binary heap by time, of groups that end and models that are loaded.
- **schedule** [field, entry]: what was arranged beforehand, by time.
- **state** [field]: of the loop.
"""

from __future__ import annotations

from typing import Final

ARRIVED_S: Final = 0
DEADLINE_S: Final = 1
REQUEST_ITEMS: Final = 2
NOISE: Final = 3  # of the service time of a group that it heads, see SIGMA
LOT: Final = 4
OTHER_LOT: Final = 5
STATUS: Final = 6
SENT_S: Final = 7  # last sent
ANSWERED_S: Final = 8  # or given up
SERVER: Final = 9
WIDTH: Final = 10
ACCURACY: Final = 11
BATCH: Final = 12
ENERGY_J: Final = 13  # its share of its group's; NaN while unknown
ATTEMPTS: Final = 14
NEXT: Final = 15  # in its group, -1 at the end
LEFT: Final = 16  # in a lane, as in a skew heap
RIGHT: Final = 17
REQUEST_FIELDS: Final = 18

# As floats: Numba would compile a function anew for each whole number that it is called with.
COMING: Final = 0.0
WAITING: Final = 1.0
SENT: Final = 2.0
ANSWERED: Final = 3.0
SHED: Final = 4.0  # refused by the router: its queue was full, or it waited for too long
REJECTED: Final = 5.0  # by the policy
FAILED: Final = 6.0  # its last attempt was lost with a server

IS_UP: Final = 0
SPEED: Final = 1  # service times are multiplied by this
IDLE_W: Final = 2
BUSY_J: Final = 3  # of groups, above idle
LOAD_J: Final = 4
BUSY_S: Final = 5  # parts of the server, times seconds
UP_S: Final = 6  # until CHANGED_S
CHANGED_S: Final = 7
BUSY_PARTS: Final = 8
MEMORY_BYTES: Final = 9
PEAK_BYTES: Final = 10
BATCHES_RUN: Final = 11
ITEMS_RUN: Final = 12
TRUTH_FIELDS: Final = 13

LOAD_S: Final = 0
LOAD_W: Final = 1
INSTANCE_BYTES: Final = 2
FIT_WEIGHT: Final = 3  # the sums of an orchestrator.profile.LatencyFit
FIT_N: Final = 4
FIT_NN: Final = 5
FIT_T_S: Final = 6
FIT_NT_S: Final = 7
SIGMA: Final = 8  # a factor exp(σ·NOISE − σ²/2) of service times; NaN where NOISE is the factor itself
DELAY_S: Final = 9  # from the end of a group until the router has its answer
TRUE_FIELDS: Final = 10

BATCH_ID: Final = 0
STARTED_S: Final = 1  # NaN while it waits for an instance
TAKES_S: Final = 2
FIRST: Final = 3  # its first request; the others follow by NEXT
DONE_S: Final = 4  # NaN while it is not; then it is held only because no report has told so
HAS_RUN: Final = 5  # 1 while its answer is on its way
HELD_FIELDS: Final = 6

AT_S: Final = 0
ORDER: Final = 1  # of events at the same time
KIND: Final = 2
EVENT_SERVER: Final = 3
DETAIL: Final = 4
VALUE: Final = 5
EVENT_FIELDS: Final = 6

ENDS: Final = 0.0  # a group; DETAIL is its id, VALUE the part of its server that it took
LOADED: Final = 1.0  # DETAIL is the width's column, VALUE its instances then
FAILS: Final = 2.0
NOTICED: Final = 3.0  # by the router, that a server has failed
RETURNS: Final = 4.0
THROTTLES: Final = 5.0  # VALUE is the factor of service times
CHANGES: Final = 6.0  # instances of a width: DETAIL is its column, VALUE how many, 0 to unload it
REPORTS: Final = 7.0  # what the router then knows of a server is VALUE seconds old
ANSWERS: Final = 8.0  # a group that has run; DETAIL is its id

NOW_S: Final = 0
NEXT_ARRIVAL: Final = 1
ARRIVALS: Final = 2
QUEUED: Final = 3  # requests in the central heap
QUEUE_ITEMS: Final = 4  # items that wait in it
EVENTS: Final = 5
EVENT_ORDER: Final = 6
NEXT_ENTRY: Final = 7
ENTRIES: Final = 8
TURN: Final = 9  # decisions so far
DISPATCHES: Final = 10
BATCH_IDS: Final = 11
IS_PENDING: Final = 12  # a decision that is to be made outside of the loop
ROW_COUNT: Final = 13
HOLD_UNTIL_S: Final = 14
IS_CHANGED: Final = 15  # something was, since the policy was last asked
WAITING_ITEMS: Final = 16  # central and bound
ANSWERED_COUNT: Final = 17
ON_TIME_COUNT: Final = 18
ACCURACY_SUM: Final = 19
LATENCY_SUM_S: Final = 20
LOST_COUNT: Final = 21  # shed, rejected or failed
QUEUE_LIMIT: Final = 22
TIMEOUT_S: Final = 23
MAX_ATTEMPTS: Final = 24
LEARNS: Final = 25  # 1 when expected times are fitted to what is observed
REPORTED: Final = 26  # 1 when the router learns of answers by reports only
IS_EXTERNAL: Final = 27  # 1 when decisions are made outside of the loop
BINDS_EARLY: Final = 28
SLACK_MARGIN: Final = 29
MIN_ACCURACY: Final = 30
STATE_FIELDS: Final = 31
