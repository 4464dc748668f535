"""What a run is of: a fleet, arrivals, and what goes wrong."""
