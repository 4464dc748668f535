"""The knobs of heuristics, tuned on a scenario with the same budget for each, so that comparisons are fair."""
