"""``slimsched top``: what a gateway's status page shows, in a terminal.

It is one more watcher of the page's events (``gateway.page.feed``): the document and its numbers are made there, and
here only put in tables. So it needs no access but to the gateway's address of its metrics, through SSH if need be.
"""
