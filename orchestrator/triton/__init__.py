"""Everything that speaks to Triton: the client adapter, discovery, and the embedded server.

Only this package imports ``tritonclient``; and importing the package itself imports nothing, so that the
command line starts without paying for gRPC.

- ``client``, ``discovery``: the adapter over ``tritonclient.grpc.aio``, and what the servers say of themselves.
- ``control``, ``repository``, ``running``, ``counters``: what a controller reads of one Triton and does to it.
- ``flags``, ``compose``: one command line for every tritonserver, embedded or in NVIDIA's container.
- ``wheel``, ``embedded``, ``guardian``: the real tritonserver of the ``local`` extra as a child process.
- ``local_fleet``: several of them in the background, for demos and tests.
- ``backend/``: the code that runs inside Triton's Python stub; it never imports this package.
"""
