"""A suite's results as a document, a page and pictures."""
