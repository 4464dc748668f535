"""Profiles of machines that are not here, computed from stated assumptions, for simulation alone.

``devices`` is the table of machines, ``generator`` the model; ``python -m tools.synthetic_profiles`` writes
``profiles/synthetic``. Nothing in them was measured, and every profile says so.
"""

from tools.synthetic_profiles.devices import DEVICES, DeviceClass
from tools.synthetic_profiles.generator import render_files, synthetic_profile

__all__ = ["DEVICES", "DeviceClass", "render_files", "synthetic_profile"]
