"""Training of the routing policies that are learned; the only package that knows torch and stable-baselines3.

What comes out is a policy file (orchestrator.policies.learned.policy_file), which serving reads without either. Nothing
heavy is imported before something is trained.
"""
