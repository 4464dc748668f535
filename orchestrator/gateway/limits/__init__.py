"""How much of the gateway one client or one model may take from the others."""
