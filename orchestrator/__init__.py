"""Slim Scheduler's serving side: routing, scheduling and control of Tritons that serve slimmable CNNs.

onnxruntime from 1.29 on sends names and hashes of models, and a lasting id of the machine, to its maker, unless a
variable says otherwise before it is loaded. Here it does, also for processes that this one starts, such as an embedded
Triton's, unless the user has set it: 0 allows it. An empty one, as of a Compose file's missing variable, says nothing.
"""

import os

if not os.environ.get("ORT_DISABLE_TELEMETRY"):
    os.environ["ORT_DISABLE_TELEMETRY"] = "1"
