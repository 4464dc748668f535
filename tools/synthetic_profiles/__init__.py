"""Profiles of machines that are not here, computed from stated assumptions, for simulation alone.

``devices`` is the table of machines, ``generator`` the model; ``python -m tools.synthetic_profiles`` writes
``profiles/synthetic``. Nothing in them was measured, and every profile says so.
"""

from tools.synthetic_profiles.devices import DEVICES, FIGURES, DeviceClass, Figure
from tools.synthetic_profiles.generator import device_times_s, render_files, synthetic_profile

__all__ = ["DEVICES", "FIGURES", "DeviceClass", "Figure", "device_times_s", "render_files", "synthetic_profile"]
