"""Whether a graph can be served under a configuration: it is run, not only read."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np
import onnxruntime
from tritonclient.grpc import model_config_pb2

from export.errors import RepositoryError, one_line
from export.repository.model_files import CONFIG_FILE, MODEL_FILE
from export.repository.signature import FREE, Signature, Tensor, config_signature, fill, fits, graph_signature
from export.repository.trial_item import Fills, make_feed


def run_model(
    model: bytes,
    config: model_config_pb2.ModelConfig,
    items: Mapping[str, tuple[int, ...]],
    fills: Fills,
    *,
    remedy: str,
    is_finite: bool = False,
) -> Iterator[str]:
    """Yield what keeps a graph from being served as its configuration says.

    Args:
        model: The ONNX file.
        config: Its configuration.
        items: An item's shape for inputs with free dims, without the batch dimension where it batches; a graph of which
            such a shape is unknown is not run.
        fills: What an item has instead of zeros, by input.
        remedy: What to do about what is found.
        is_finite: Whether blank items must give finite numbers.
    """
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 4
    try:
        session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    except Exception as exc:  # ONNX Runtime's exceptions share no base of their own
        yield f"{MODEL_FILE} can't be loaded by ONNX Runtime ({one_line(exc)}); {remedy}"
        return
    try:
        graph = graph_signature(session)
    except RepositoryError as exc:
        yield f"{MODEL_FILE}: {exc}"
        return
    batching = config.max_batch_size > 0
    served, declared = graph.served(batching=batching), config_signature(config)
    if not _is_served(served, declared) or (batching and not graph.is_batchable()):
        yield f"{MODEL_FILE} takes and gives {graph}, {CONFIG_FILE} says {declared} for each item; {remedy}"
        return
    shapes = {tensor.name: fill(tensor, items.get(tensor.name)) for tensor in declared.inputs}
    if any(FREE in tensor.dims and tensor.name not in items for tensor in declared.inputs):
        return
    for batch in (1, 3) if batching else (None,):
        lead = () if batch is None else (batch,)
        feed = make_feed(graph.inputs, shapes, fills, batch=batch)
        try:
            outputs = session.run([tensor.name for tensor in declared.outputs], feed)
        except Exception as exc:
            yield f"{MODEL_FILE} can't run {_items(batch)} ({one_line(exc)}); {remedy}"
            return
        for tensor, found in zip(declared.outputs, map(np.asarray, outputs), strict=True):
            dims = (*lead, *tensor.dims)
            is_scalar = found.shape == lead and tensor.dims == (1,)
            if not (fits(found.shape, dims) or is_scalar) or (is_finite and not np.isfinite(found).all()):
                yield f"{MODEL_FILE} gives {tensor.name} {found.shape}, or infinite ones, for {_items(batch)}; {remedy}"
                return


def _items(batch: int | None) -> str:
    return "an item" if batch is None else f"a batch of {batch}"


def _is_served(served: Signature, declared: Signature) -> bool:
    """Return whether a configuration may declare what a graph has; Triton's own rules.

    All inputs, and outputs of those there are, with their types and dims; a free dim of an input may be fixed.
    """
    has = {tensor.name: tensor for tensor in (*served.inputs, *served.outputs)}

    def agrees(tensor: Tensor, *, exact: bool) -> bool:
        own = has.get(tensor.name)
        if own is None or (own.data_type, own.is_reshaped) != (tensor.data_type, tensor.is_reshaped):
            return False
        return own.dims == tensor.dims if exact else fits(tensor.dims, own.dims)

    return (
        {t.name for t in served.inputs} == {t.name for t in declared.inputs}
        and bool(declared.outputs)
        and all(agrees(tensor, exact=False) for tensor in declared.inputs)
        and all(agrees(tensor, exact=True) for tensor in declared.outputs)
    )
