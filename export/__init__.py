"""From data to a Triton model repository: slimmable networks, their training and their export."""

import os

if not os.environ.get("ORT_DISABLE_TELEMETRY"):  # as the serving side does: that package's docstring says why
    os.environ["ORT_DISABLE_TELEMETRY"] = "1"
