"""The status page: what a gateway and its fleet do now, and did in the last minutes, for whoever operates them.

Every number is from the snapshot that Prometheus reads too (``gateway.metrics``), from the routers' overview, or from
the controllers' status documents. ``traffic`` and ``document`` are pure and make one JSON document of these; ``feed``
takes the samples and sends the document to browsers as server-sent events, which need no library on either side and
reconnect by themselves. The page itself is three files in ``assets``: no build step, and nothing from outside, because
during an incident there may be no outside.
"""
