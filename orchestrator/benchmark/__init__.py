"""Load on a router, and what came out of it: tables, pages and pictures."""
