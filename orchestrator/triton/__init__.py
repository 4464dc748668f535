"""Everything that speaks to a Triton: one client for all calls, discovery, and control.

Only ``messages`` imports ``tritonclient``, of which nothing but the generated messages is used; importing the package
itself imports nothing, so that the command line starts without paying for it.

- ``client``: inferences, control calls and calls that are passed through, over one connection of ours to each Triton.
- ``infer_wire``, ``messages``, ``errors``: tensors, configs and failures as values of ours.
- ``discovery``: what the Tritons of a fleet serve, asked once for a whole process.
- ``control``, ``repository``, ``counters``: what a controller reads of one Triton and does to it.
"""
