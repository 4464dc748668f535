"""Commands that call what serves, or look at what it did."""
