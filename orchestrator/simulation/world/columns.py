"""Where things stand in the tables of a simulated world, beside those of orchestrator.policies.tables.columns.

- **requests** [field, request]: in the order of their arrival; what happened to each is written here too.
- **truth** [field, server] and **models** [field, server · columns + width]: what servers really are and did, which
  the router does not know.
- **held** [field, server · depth + slot]: beside the router's ``batches``, what it does not know of them.
- **events** [field, entry]: a binary heap by time, of batches that end and requests that expire.
- **schedule** [field, entry]: what was arranged beforehand, by time.
- **hosts** [field, host]: what servers, router and other processes share.
- **factors** [host, entry]: residuals of a host, ascending; **common** [host, step]: what its batches have in common.
- **inbox** [field, entry]: a ring of batches whose answers the router has not read.
- **queues** [field, class]: of each queue, behind the fields of orchestrator.policies.family_turns, which are by
  family. Of several families each is a class; one family may have several, of unlike bounds and preferences.
- **state** [field]: of the loop.
"""

from __future__ import annotations

from typing import Final

from orchestrator.policies.family_turns import TURN_FIELDS

ARRIVED_S: Final = 0
DEADLINE_S: Final = 1  # of its caller's
PRIORITY: Final = 2  # 1 is the highest
REQUEST_ITEMS: Final = 3
NOISE: Final = 4  # of the service time of a batch that it heads, see SIGMA
FIRST_UNIFORM: Final = 5  # drawn for the policy, in [0, 1)
SECOND_UNIFORM: Final = 6
STATUS: Final = 7
SENT_S: Final = 8  # last sent
ANSWERED_S: Final = 9  # or given up
SERVER: Final = 10
WIDTH: Final = 11
ACCURACY: Final = 12
BATCH: Final = 13
ENERGY_J: Final = 14  # its share of its batch's; NaN while unknown
ATTEMPTS: Final = 15
NEXT: Final = 16  # in its batch, -1 at the end
QUEUE: Final = 17  # the queue of a server and width that it is bound to, -1: the central one; while it waits
LEFT: Final = 18  # in the queue it is bound to, a skew heap
RIGHT: Final = 19
IS_WATCHED: Final = 20  # 1 while an event is to come that lets it expire
DUE_S: Final = 21  # the deadline that the router goes by: DEADLINE_S less what the way back is expected to take
WAKE: Final = 22  # exponential, of mean 1: how many times as long as usual who wakes for it waits for a core
FAMILY: Final = 23  # by index, in the order of names
CLASS: Final = 24  # whose queue it waits in; of several families its family
REQUEST_FIELDS: Final = 25

# As floats: Numba would compile a function anew for each whole number that it is called with.
COMING: Final = 0.0
WAITING: Final = 1.0
SENT: Final = 2.0
ANSWERED: Final = 3.0
SHED: Final = 4.0  # given up by the router: its queue was full, it waited for too long, or its time could not be kept
REJECTED: Final = 5.0  # by the policy
FAILED: Final = 6.0  # its last attempt was lost with a server

IS_UP: Final = 0
SPEED: Final = 1  # service times are multiplied by this
IDLE_W: Final = 2
BUSY_J: Final = 3  # of batches, above idle
BUSY_S: Final = 4  # parts of the server, times seconds
UP_S: Final = 5  # until CHANGED_S
CHANGED_S: Final = 6
BUSY_PARTS: Final = 7
BATCHES_RUN: Final = 8
ITEMS_RUN: Final = 9
HOST: Final = 10  # -1: none
CORE_RATIO: Final = 11  # part of a batch's time for which it needs a core of its host
CONTENTION: Final = 12  # part of its time for which a batch needs the device that all share; hosts have cores for that
RUNNING_BATCHES: Final = 13
UTILISED_S: Final = 14  # parts of that device, or of its host's cores, times seconds, until CHANGED_S
HEAT: Final = 15  # what it was used of late, 0..1
IS_HOT: Final = 16  # 1 while that throttles it
HEAT_S: Final = 17  # time in which heat is mostly forgotten; 0: it throttles nothing
HOT_ABOVE: Final = 18
HOT_FACTOR: Final = 19  # of service times while it is hot
JOINS: Final = 20  # 1 when batches of a width that wait together run as one
READ_BUSY_S: Final = 21  # BUSY_S or UTILISED_S, and BUSY_J, when devices were last read
READ_J: Final = 22
MOST_W: Final = 23  # that was read of it
BUDGET_BYTES: Final = 24  # of memory, that its controller keeps to; 0: it has none
IS_AWAY: Final = 25  # 1 while it serves another gateway
TRUTH_FIELDS: Final = 26

FIT_WEIGHT: Final = 0  # the sums of an orchestrator.profile.fit.LatencyFit
FIT_N: Final = 1
FIT_NN: Final = 2
FIT_T_S: Final = 3
FIT_NT_S: Final = 4
SIGMA: Final = 5  # a factor exp(σ·NOISE − σ²/2) of service times; NaN where NOISE is the factor itself
DELAY_S: Final = 6  # from the end of a batch until the router has its answer
MARGIN_MEAN: Final = 7  # an orchestrator.profile.margin.Margin; NaN before the first answer
MARGIN_DEVIATION: Final = 8
MARGIN_DEVIATIONS: Final = 9
RUN_BATCHES: Final = 10  # what Triton's counters say: batches that have run, their items,
RUN_ITEMS: Final = 11
RUN_WAITED_S: Final = 12  # how long they waited for an instance,
RUN_S: Final = 13  # and how long they ran
RUN_CALLS: Final = 14  # of the router's batches, of which several may have run as one
INSTANCE_BYTES: Final = 15
SEEN_S: Final = 16  # when the router last learned of a batch
START_PER_ITEM_S: Final = 17  # the line that the fit began with
START_FIXED_S: Final = 18
TRUE_FIELDS: Final = 19

BATCH_ID: Final = 0
STARTED_S: Final = 1  # NaN while it waits for an instance
TAKES_S: Final = 2
FIRST: Final = 3  # its first request; the others follow by NEXT
DONE_S: Final = 4  # NaN while it is not; then it is held only because no report has said so
HAS_RUN: Final = 5  # 1 while its answer is on its way
EXPECTED_S: Final = 6  # from its sending to its answer; 0 when it was not held against a deadline
ALLOWED_RATIO: Final = 7  # so many times that it might take
CORE_UNTIL_S: Final = 8  # by its host's SERVERS_WORK_S, NaN while it needs no core
LEADER: Final = 9  # BATCH_ID of the first batch of its run; 0 until an instance has taken it
TAKEN_ORDER: Final = 10  # of the first batch of a run, by which runs start; of others 0
RUN_SIZE: Final = 11  # items of its run
ALONE_S: Final = 12  # what its run would take beside no other; its joules go with that
HELD_FIELDS: Final = 13

CORES: Final = 0
SLICE_S: Final = 1
COMPETING: Final = 2  # other processes that want a core
RUNNING: Final = 3  # batches that do
ROUTER_RUNS: Final = 4  # 1 while the router does
STALLED_SERVERS: Final = 5  # by so many stalls
STALLED_ROUTER: Final = 6
SERVERS_WORK_S: Final = 7  # what whoever has had a core all the time has done of a server's work, until SYNCED_S
ROUTER_WORK_S: Final = 8  # likewise of a router's, which stalls at other times
SYNCED_S: Final = 9
NEXT_S: Final = 10  # when the next of those who have a core is done with it; infinite when none has
FACTORS: Final = 11  # entries of its residuals; 0: noise is that of the widths
CORRELATION: Final = 12
COMMON_STEP_S: Final = 13
ROUTER_WEIGHT: Final = 14  # parts that the router has of the cores for each one of another
HOST_FIELDS: Final = 15

INBOX_SERVER: Final = 0
INBOX_BATCH: Final = 1
INBOX_CAME_S: Final = 2
INBOX_FIELDS: Final = 3

AT_S: Final = 0
ORDER: Final = 1  # of events at the same time
KIND: Final = 2
EVENT_SERVER: Final = 3
DETAIL: Final = 4
VALUE: Final = 5
EVENT_FIELDS: Final = 6

ENDS: Final = 0.0  # a batch; DETAIL is its id, VALUE the part of its server that it took
FAILS: Final = 1.0
NOTICED: Final = 2.0  # by the router, that a server has failed
RETURNS: Final = 3.0
THROTTLES: Final = 4.0  # VALUE is the factor of service times
REPORTS: Final = 5.0  # what the router then knows of a server is VALUE seconds old
ANSWERS: Final = 6.0  # a batch that has run; DETAIL is its id
EXPIRES: Final = 7.0  # a request that waits and can't keep its deadline any more; DETAIL is its number
STALLS_SERVERS: Final = 8.0  # of the host that stands in place of a server; VALUE is 1 at the beginning, -1 at the end
STALLS_ROUTER: Final = 9.0  # likewise
COMPETES: Final = 10.0  # VALUE is how many processes compete on such a host from now on
LEAVES: Final = 11.0  # to another gateway, which it serves until it comes back
COMES_BACK: Final = 12.0

IDLE: Final = 0.0  # phases of a router: it has nothing to do
READS: Final = 1.0  # a turn: what has come
SETTLES: Final = 2.0  # what it has decided and sent meanwhile takes its time

QUEUED: Final = TURN_FIELDS  # entries of the heap
GONE: Final = TURN_FIELDS + 1  # of them, those whose requests have left the queue
QUEUE_ITEMS: Final = TURN_FIELDS + 2  # items that wait in it
QUEUE_BOUND_ITEMS: Final = TURN_FIELDS + 3  # and those that are bound to a server
FASTEST_S: Final = TURN_FIELDS + 4  # of the orchestrator.policies.queue_rules.QueueEstimate
MOST_RPS: Final = TURN_FIELDS + 5  # likewise
HELD_HEAD: Final = TURN_FIELDS + 6  # the request that was held last
HELD_AT: Final = TURN_FIELDS + 7  # CHANGES when it was
HELD_UNTIL_S: Final = TURN_FIELDS + 8  # infinite: until something changes
HAS_HELD: Final = TURN_FIELDS + 9  # 1 once its policy has, since anything was done
ITEMS_TO_ROOM: Final = TURN_FIELDS + 10  # of what waits, and of what room is made for, while it is made
MIN_ACCURACY: Final = TURN_FIELDS + 11
FIRST_COLUMN: Final = TURN_FIELDS + 12  # of its widths; by family
END_COLUMN: Final = TURN_FIELDS + 13  # likewise
ARRIVED_ITEMS: Final = TURN_FIELDS + 14  # so far; by family
CLASS_PREFER_ACCURACY: Final = TURN_FIELDS + 15  # what its requests prefer; NaN, and the two that follow: nothing
CLASS_PREFER_LATENCY: Final = TURN_FIELDS + 16
CLASS_PREFER_ENERGY: Final = TURN_FIELDS + 17
SAME_WIDTHS: Final = TURN_FIELDS + 18  # the first class whose requests accept the same widths
KNOWN_FASTEST_S: Final = TURN_FIELDS + 19  # what was last known of any queue of such requests, for one that begins
KNOWN_MOST_RPS: Final = TURN_FIELDS + 20
QUEUE_FIELDS: Final = TURN_FIELDS + 21

NOW_S: Final = 0
NEXT_ARRIVAL: Final = 1
ARRIVALS: Final = 2
EVENTS: Final = 3
EVENT_ORDER: Final = 4
NEXT_ENTRY: Final = 5
ENTRIES: Final = 6
TURN: Final = 7  # decisions so far
BATCH_IDS: Final = 8
IS_PENDING: Final = 9  # a decision that is to be made outside of the loop
ROW_COUNT: Final = 10
HOLD_UNTIL_S: Final = 11  # the soonest of all queues
IS_CHANGED: Final = 12  # something was, since the policy was last asked
WAITING_ITEMS: Final = 13  # central and bound
OLDEST_OPEN: Final = 14  # no request before this one is still to be answered or given up
ANSWERED_COUNT: Final = 15
ON_TIME_COUNT: Final = 16
ACCURACY_SUM: Final = 17
LATENCY_SUM_S: Final = 18
LOST_COUNT: Final = 19  # shed, rejected or failed
QUEUE_LIMIT: Final = 20
CAN_DISPLACE: Final = 21  # 1 when a request may be more important than one that came before it
SHEDS_LATE: Final = 22  # 1 when deadlines are the callers' own, and what can't keep its own is given up
TIMEOUT_S: Final = 23
MAX_ATTEMPTS: Final = 24
LEARNS: Final = 25  # 1 when expected times are fitted to what is observed
REPORTED: Final = 26  # 1 when the router learns of answers by reports only
IS_EXTERNAL: Final = 27  # 1 when decisions are made outside of the loop
BINDS_EARLY: Final = 28
SLACK_MARGIN: Final = 29
HOSTS: Final = 30
NEXT_HOST: Final = 31  # whose NEXT_S comes next
ROUTER_HOST: Final = 32  # -1: a router takes no time
PHASE: Final = 33
ROUTER_UNTIL_S: Final = 34  # by its host's ROUTER_WORK_S
HAS_SLEPT: Final = 35  # 1 when the router has to wake up for what comes next
NEXT_UNREAD: Final = 36  # the first request that has come, or will, and is not read
TURN_END: Final = 37  # the first one that is not read in this turn
UNREAD_ITEMS: Final = 38  # that the router knew to be there when the turn began, behind it
ANSWERS_READ: Final = 39  # entries of the inbox, counted from the beginning
ANSWERS_TURN: Final = 40  # to be read in this turn
ANSWERS_CAME: Final = 41
OWED_S: Final = 42  # what decisions and batches have taken since the last turn ended
LAG_S: Final = 43  # how long what comes has lately waited
LAG_SEEN_S: Final = 44
MOST_READ: Final = 45  # requests in a turn
REQUEST_COST_S: Final = 46
DECISION_COST_S: Final = 47
BATCH_COST_S: Final = 48
ANSWER_COST_S: Final = 49
CALLERS_HERE: Final = 50  # 1 when callers are on the router's host
JUDGES: Final = 51  # 1 when margins follow how long answers took
FAMILIES: Final = 52
ASKED: Final = 53  # the class whose head a decision is about
CHANGES: Final = 54  # of anything but what waits
CLOCK_S: Final = 55  # virtual time of the families, see orchestrator.policies.family_turns
CONTROL_S: Final = 56  # when a controller is next to act; infinite without any
IS_CONTROL_DUE: Final = 57  # 1 while the loop has stopped for them
CALLERS: Final = 58  # of whom each waits for his answer; infinite: nobody does
DELAYED_S: Final = 59  # by how much requests come later than drawn, because all callers waited
ONLY_WIDTH: Final = 60  # that the policy takes, see orchestrator.policies.rule.only_width; NaN: any
RUNS: Final = 61  # that instances have taken
READ_EVERY_S: Final = 62  # devices are; infinite: never
NEXT_READING_S: Final = 63
CLASSES: Final = 64
HAS_PREFERENCES: Final = 65  # 1 when some class prefers anything
IN_TIME_ACCURACY_SUM: Final = 66
FADED_S: Final = 67  # when what was not observed was last let fade
STATE_FIELDS: Final = 68
