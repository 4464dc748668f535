"""The contract that every policy keeps to, on simulated fleets."""

from orchestrator.simulation.policy_contract import check_policy


def test_it_keeps_to_the_contract():
    """As it is, and with each of its knobs at both ends."""
    check_policy("saver")
