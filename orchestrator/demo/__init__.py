"""``slimsched demo``: the default among its rivals on real Tritons, under load that rises and falls, as one page."""
