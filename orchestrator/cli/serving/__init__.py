"""Commands that serve, and what they need: tokens, a fleet file that is checked, code that is compiled."""
