"""What a gateway counts and times, added up over its processes, and where Prometheus reads it."""
