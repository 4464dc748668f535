"""When what is read from a socket came to this machine.

Who is behind reads what came long ago, and a socket does not say when that was. It says how much it still holds,
though: so at each look it is known how much had come by then, and between which two looks any byte came.
"""

from __future__ import annotations

import array
import fcntl
import termios
from collections import deque


class Arrivals:
    """The looks at one socket that something unread came after; ``now_s`` is when it was opened.

    Attributes:
        left_bytes: How many bytes the socket still held at the last look.
    """

    def __init__(self, now_s: float) -> None:
        self._taken_bytes = 0
        self._looks = deque([(0, now_s)])  # how much had come by when; the first of them before what is taken next
        self.left_bytes = 0

    def take(self, size_bytes: int, left_bytes: int, now_s: float, waited_s: float) -> float:
        """Note that so much was read, and how much was left; return when the first of it came.

        ``waited_s`` is how long anything that came after the last look waits to be read.
        """
        looks, first = self._looks, self._taken_bytes
        while len(looks) > 1 and looks[1][0] <= first:
            looks.popleft()
        came, since_s = looks[0]
        if len(looks) > 1:
            later, by_s = looks[1]
            arrived_s = since_s + (by_s - since_s) * (first - came) / (later - came)
        else:
            arrived_s = max(since_s, now_s - waited_s)
        self._taken_bytes += size_bytes
        self.left_bytes = left_bytes
        looks.append((self._taken_bytes + left_bytes, now_s))
        return arrived_s


def read_left_bytes(descriptor: int) -> int:
    """Return how many bytes a socket holds that were not read; 0 when it doesn't say."""
    left = array.array("i", [0])
    try:
        fcntl.ioctl(descriptor, termios.FIONREAD, left)
    except (OSError, ValueError):  # it was closed
        return 0
    return left[0]
