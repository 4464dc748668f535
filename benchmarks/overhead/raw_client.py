"""``tritonclient.grpc.aio`` as its documentation has it used: what the router is held against.

The one place outside the adapters that knows Triton's client, because it is the baseline itself.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from tritonclient.grpc import InferInput, InferRequestedOutput
from tritonclient.grpc.aio import InferenceServerClient
from tritonclient.utils import np_to_triton_dtype


class RawClient:
    """Asks one model of one Triton, at its gRPC endpoint ``host:port``, for one output of one input."""

    def __init__(self, address: str, model: str, input_name: str, output_name: str) -> None:
        self._client = InferenceServerClient(address)
        self._model, self._input, self._output = model, input_name, output_name

    async def infer(self, batch: NDArray[Any]) -> NDArray[Any]:
        """Return the model's output for a batch."""
        tensor = InferInput(self._input, list(batch.shape), np_to_triton_dtype(batch.dtype))
        tensor.set_data_from_numpy(batch)
        answer = await self._client.infer(self._model, [tensor], outputs=[InferRequestedOutput(self._output)])
        found: NDArray[Any] = answer.as_numpy(self._output)
        assert isinstance(found, np.ndarray)
        return found

    async def close(self) -> None:
        """Release the connection."""
        await self._client.close()
