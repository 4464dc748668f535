"""``slimsched demo``: the default among its baselines on real Tritons, under load that rises and falls, as one page."""
