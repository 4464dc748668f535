"""What the daemon is put through; each scenario returns its raw numbers."""
