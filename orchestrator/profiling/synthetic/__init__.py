"""Profiles of machines that are not here, computed from stated assumptions, for simulation alone.

``devices`` is the table of machines, ``generator`` the model; ``python -m orchestrator.profiling.synthetic`` writes
``profiles/synthetic``. Nothing in them was measured, and every profile says so.
"""

from orchestrator.profiling.synthetic.devices import DEVICES, DeviceClass
from orchestrator.profiling.synthetic.generator import render_files, synthetic_profile

__all__ = ["DEVICES", "DeviceClass", "render_files", "synthetic_profile"]
