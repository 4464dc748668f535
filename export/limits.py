"""Largest values of the tuning that an export writes; here and light, because the command line shows them too.

Beyond them a number is a slip of the keyboard, or more than the fields of Triton's configuration hold.
"""

MAX_BATCH_SIZE = 65_536
MAX_INSTANCES = 1024
MAX_THREADS = 1024
MAX_QUEUE_DELAY_US = 60_000_000
