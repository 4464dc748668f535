"""The suites of scenarios, and the claims that each of them holds against what came of it."""
