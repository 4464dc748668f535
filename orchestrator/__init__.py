"""Slim Scheduler's serving side: routing, scheduling and control of Tritons that serve slimmable CNNs.

onnxruntime from 1.29 on sends names and hashes of models, and a lasting id of the machine, to its maker, unless a
variable says otherwise before it is loaded. Here it does, also for processes that this one starts, such as an embedded
Triton's, unless the user has set it: 0 allows it.
"""

import os

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
