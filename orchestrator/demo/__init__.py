"""``slimsched demo``: the same labelled images under several policies on real Tritons, as a table and a page."""
