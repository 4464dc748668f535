"""What a controller learns of its host by running: rates, batch latencies, memory, and what changes cost."""
