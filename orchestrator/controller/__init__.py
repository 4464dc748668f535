"""The daemon beside each Triton: observe, plan, act, verify."""
