"""HTTP/2 as gRPC needs it, on asyncio: the gateway's transport, and the channel over which Tritons are asked.

Hand-written because of what the ready ones cost. CPU of the server for a unary call of 3 kB that does nothing, by
`h2load` on 2 cores, four connections of eight streams / one call at a time: gRPC's own asyncio server (grpcio 1.85)
240 / 280 µs, a server on the ``h2`` library 150 / 185 µs, this one 12 / 27 µs. A request that is answered by a batch on
a Triton costs about 250 µs in all, so that is the difference between a gateway that is felt and one that is not.

``frames``, ``headers`` and ``huffman`` (with the ``hpack`` library) are pure; ``flow``, ``stream``, ``incoming`` and
``connection`` are the protocol without I/O; ``protocol`` and ``listener`` put it on asyncio, and ``grpc`` puts gRPC on
that. Why it is fast: header blocks are decoded once, a message that comes in one frame is never joined, an answer is
one write, and all answers of a turn of the loop are one system call. It knows nothing of the project beyond
``orchestrator.errors`` and ``orchestrator.token_bucket``.
"""
