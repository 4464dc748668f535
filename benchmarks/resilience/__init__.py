"""What ``slimsched gateway`` does when its Tritons fail, when too much comes, and over time: ``make bench-resilience``.

Seven scenarios over two real Tritons that play slower machines: one of them dies, hangs, stops accepting, answers
errors, turns slow or answers wrong under 200 requests a second (`outage`), and a burst of five times the fleet's
capacity (`burst`). An eighth, the soak, mixes every kind of client, bad ones included, for half an hour (`soak`). The
gateway is run for what it is, a process ``slimsched gateway`` with its default settings; requests come from processes
of `tritonclient`, which retry nothing.

**Lost** is any request with a deadline of at least a second that was not answered, rightly formed, within it, counted
from when it was due and not from when it was sent. Nothing is excused for having been under way when the fault came:
the other server has a second for it. **Answered twice** is looked for where the protocol would show it: half of the
requests go over streams, whose answers carry the request's id, and each id must come back once.
"""
