"""Policies that were learned: what they see, how they score it, the file they come in.

Nothing here trains and nothing here needs torch: a policy is a file of weights (``policy_file``), scored by compiled
loops (``network``) over features (``features``) that the simulator and the live router compute with the very same
function. Both learned policies decide among the same actions (``actions``) and say themselves when a situation is
unlike all that they were trained on.
"""
