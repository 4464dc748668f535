"""Accounts of what changes really did: to memory, to threads, and against whom else changes the same Triton."""
