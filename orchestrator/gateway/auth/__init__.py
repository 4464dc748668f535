"""Who may call, how much, and over which certificates."""
