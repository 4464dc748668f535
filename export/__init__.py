"""From data to a Triton model repository: slimmable networks, their training and their export."""

import os

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # as the serving side does: that package's docstring says why
