"""A fleet as a router keeps it: tables that follow each change, and what is read from them as values."""
