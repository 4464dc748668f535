"""The real tritonserver of the nvidia-pytriton wheel, run on a machine without GPU and without container.

``server`` starts one, ``guardian`` is the process that owns it, ``backend`` is what runs inside its Python stub,
``local_fleet`` keeps several in the background, and ``local_stack`` runs them with their controllers and a gateway.
Nothing in here speaks to a Triton; that is ``orchestrator.triton``.
"""
