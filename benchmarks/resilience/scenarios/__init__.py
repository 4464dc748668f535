"""What is done to two Tritons and a gateway: failures, a burst, and load for long."""
