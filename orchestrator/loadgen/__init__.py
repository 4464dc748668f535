"""Open-loop load on whatever answers KServe v2, and what became of each request."""
