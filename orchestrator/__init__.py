"""Slim Scheduler's serving side: routing, scheduling and control of Tritons that serve slimmable CNNs."""
