"""The embedded server's `onnxruntime` backend, run by Triton's Python stub.

Triton takes a backend directory that holds a `model.py` and no shared library for a Python-based backend: every
model whose config.pbtxt says `backend: "onnxruntime"` is served by this file, so a repository written for
NVIDIA's image runs unchanged on a machine without GPU. What works here must work there: `onnx_contract` refuses
at load what the C++ backend refuses.

One `execute` call carries the requests of one dynamic batch. They are concatenated along the batch dimension,
run once and split again. When that run fails each request is run alone, so one bad request never fails its
neighbours and never takes the model down. Triton itself has checked names, dtypes and declared dims, and has
applied `reshape`, before a request gets here.

Emulated slow-down: with the environment variable SLIM_SLOWDOWN = s (a number >= 1, inherited from tritonserver), an
instance answers s times as long after it began as a run of this size takes here, by sleeping. How long that is, is the
quickest of a few further runs back to back, not what each run happens to take: a core that has slept runs colder the
longer it slept (a small run after 7 times its length takes a third longer, after 23 times twice as long), and what the
sleep itself has brought about would be multiplied too. They are timed when inputs of such shapes first come, and once
more each of the next times: on a machine that is busy just then, what was timed is up to a third too long. While it
runs and sleeps it holds a lock on the file that SLIM_DEVICE_LOCK names, so that a server's instances share one slow
device; without that, sleeping instances of several models would overlap and the machine would be fast as a whole. A
number in that file says how many times as slow as usual the device is just then, as one that throttles is. That is a
labelled emulation of a machine s times slower, not a measurement of one.

Only `TritonPythonModel` needs Triton; everything above it is plain functions over numpy and ONNX Runtime.
"""

import fcntl
import json
import os
import time
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import numpy.typing as npt
import onnxruntime as ort

if TYPE_CHECKING or __package__:
    from .onnx_contract import (
        DEVICE_LOCK_VARIABLE,
        SLOWDOWN_VARIABLE,
        LoadError,
        open_session,
        parse_slowdown,
        read_specs,
    )
else:  # in the stub this file is a top-level module, and its sibling lies beside it
    from onnx_contract import (
        DEVICE_LOCK_VARIABLE,
        SLOWDOWN_VARIABLE,
        LoadError,
        open_session,
        parse_slowdown,
        read_specs,
    )

Array = npt.NDArray[Any]
Feed = dict[str, Array]
Result = TypeVar("Result")

TIMED_RUNS = 5
"""Back to back, of which the quickest is what a slow device takes times its factor."""
TIMED_AGAIN = 10
"""Times that inputs of such shapes come, after the first, at which they are timed once more."""
MAX_FACTOR_BYTES = 32
MAX_KINDS = 1024
"""Of work that a slow device knows the time of; inputs without fixed shapes bring ever new ones."""


class RequestError(ValueError):
    """One request can't be answered.

    Attributes:
        is_invalid: True when the request itself is at fault, False when ONNX Runtime failed to run it.
    """

    def __init__(self, message: str, *, is_invalid: bool) -> None:
        super().__init__(message)
        self.is_invalid = is_invalid


def group_by_signature(signatures: Sequence[Hashable]) -> list[list[int]]:
    """Return the indices of equal signatures together: groups by first appearance, members in order."""
    groups: dict[Hashable, list[int]] = {}
    for index, signature in enumerate(signatures):
        groups.setdefault(signature, []).append(index)
    return list(groups.values())


def batch_signature(feed: Feed) -> Hashable:
    """Return what two feeds must share to be concatenated: their inputs and all dims but the first."""
    return tuple(sorted((name, array.shape[1:]) for name, array in feed.items()))


def batch_size(feed: Feed) -> int:
    """Return the first dimension of a feed; raises RequestError when its inputs disagree about it or one has none."""
    sizes = {array.shape[0] if array.ndim else None for array in feed.values()}
    size = sizes.pop() if len(sizes) == 1 else None
    if size is None:
        shapes = ", ".join(f"{name} {list(array.shape)}" for name, array in feed.items())
        raise RequestError(f"the inputs have no common batch dimension: {shapes}", is_invalid=True)
    return size


def concatenate_feeds(feeds: Sequence[Feed]) -> Feed:
    """Join feeds of one signature along the batch dimension; a single feed is returned without a copy."""
    if len(feeds) == 1:
        return feeds[0]
    return {name: np.concatenate([feed[name] for feed in feeds]) for name in feeds[0]}


def split_outputs(outputs: Mapping[str, Array], sizes: Sequence[int]) -> list[Feed]:
    """Cut batched outputs into a mapping of views per request; raises RequestError where one is not batched."""
    if len(sizes) == 1:
        return [dict(outputs)]
    ends = np.cumsum(sizes)
    for name, array in outputs.items():
        if not array.ndim or array.shape[0] != ends[-1]:
            raise RequestError(
                f"output '{name}' has shape {list(array.shape)} for a batch of {ends[-1]}: its first dimension "
                "is not the batch; set max_batch_size: 0",
                is_invalid=False,
            )
    return [
        {name: array[end - size : end] for name, array in outputs.items()}
        for size, end in zip(sizes, ends, strict=True)
    ]


def decode_strings(name: str, array: Array) -> Array:
    """Turn Triton's BYTES elements into the text that ONNX strings are; raises RequestError when one is not UTF-8."""
    try:
        text = [element.decode() if isinstance(element, bytes) else str(element) for element in array.flat]
    except UnicodeDecodeError as exc:
        raise RequestError(f"input '{name}' is not UTF-8 text: {exc}", is_invalid=True) from exc
    decoded = np.empty(array.size, dtype=np.object_)
    decoded[:] = text
    return decoded.reshape(array.shape)


class SlowDevice:
    """What an instance runs on: as it is, or emulated to be slower and then used by one instance at a time.

    Args:
        slowdown: Factor, >= 1; 1 emulates nothing.
        lock_path: File that the instances of a server lock in turn; None locks nothing.
        sleep: Waits a number of seconds; a test passes its own, and clocks.
        clock: Seconds on the wall.
        cpu_clock: Seconds that this process has computed.
    """

    def __init__(
        self,
        slowdown: float = 1.0,
        lock_path: str | None = None,
        *,
        sleep: Callable[[float], None] = time.sleep,
        clock: Callable[[], float] = time.perf_counter,
        cpu_clock: Callable[[], float] = time.process_time,
    ) -> None:
        self._slowdown = slowdown
        self._sleep, self._clock, self._cpu_clock = sleep, clock, cpu_clock
        self._timed: dict[Hashable, tuple[float, int]] = {}  # the least time, and how often it is still timed again
        # Stays open as long as the process; the kernel drops the lock with it, even when it is killed.
        self._lock = os.open(lock_path, os.O_RDWR | os.O_CREAT, 0o600) if lock_path and slowdown > 1.0 else None

    def run(self, kind: Hashable, work: Callable[[], Result]) -> Result:
        """Return what the work returns; work that fails takes no longer than it takes.

        Work of an equal ``kind`` takes equally long. It does nothing but return something, so that it may be repeated.
        """
        if self._slowdown <= 1.0:
            return work()
        with self._occupied():
            began_s = self._clock()
            result = work()
            takes_s = self._slowdown * self._throttling() * self._least_s(kind, work)
            self._sleep(max(0.0, began_s + takes_s - self._clock()))
        return result

    def _throttling(self) -> float:
        text = os.pread(self._lock, MAX_FACTOR_BYTES, 0) if self._lock is not None else b""
        return float(text) if text.strip() else 1.0

    def _least_s(self, kind: Hashable, work: Callable[[], Result]) -> float:
        if kind in self._timed:
            least_s, left = self._timed[kind]
            if left > 0:
                least_s = min(least_s, self._time_s(work))
                self._timed[kind] = least_s, left - 1
            return least_s
        if len(self._timed) >= MAX_KINDS:
            self._timed.clear()
        least_s = min(self._time_s(work) for _ in range(TIMED_RUNS))
        self._timed[kind] = least_s, TIMED_AGAIN
        return least_s

    def _time_s(self, work: Callable[[], Result]) -> float:
        began_s, began_cpu_s = self._clock(), self._cpu_clock()
        work()
        # Undisturbed: a moment in which another process had the core is not multiplied. Several threads use more CPU
        # time than they take; then the clock on the wall is the better guess.
        return min(self._clock() - began_s, self._cpu_clock() - began_cpu_s)

    @contextmanager
    def _occupied(self) -> Iterator[None]:
        if self._lock is not None:
            fcntl.flock(self._lock, fcntl.LOCK_EX)
        try:
            yield
        finally:
            if self._lock is not None:
                fcntl.flock(self._lock, fcntl.LOCK_UN)


class OnnxModel:
    """One instance: an ONNX Runtime session, proven to fit its config, that answers several requests at a time."""

    def __init__(self, session: ort.InferenceSession, config: Mapping[str, Any], device: SlowDevice) -> None:
        self.output_names: tuple[str, ...] = tuple(io["name"] for io in config["output"])
        self._string_inputs = {io["name"] for io in config["input"] if io["data_type"] == "TYPE_STRING"}
        self._is_batching = int(config.get("max_batch_size", 0)) > 0
        # Triton has no tensors without dims: to it a scalar is one dim of 1, in and out, as in the C++ backend.
        scalars = {spec.name for spec in read_specs(session.get_inputs()) if not spec.shape}
        self._scalar_inputs = set() if self._is_batching else scalars
        self._session = session
        self._device = device

    def answer(self, feeds: Sequence[Feed]) -> list[Feed | RequestError]:
        """Return for every feed, in order, its outputs or why it has none."""
        signatures = [batch_signature(feed) if self._is_batching else index for index, feed in enumerate(feeds)]
        answers: dict[int, Feed | RequestError] = {}
        for members in group_by_signature(signatures):
            answers.update(zip(members, self._answer_batch([feeds[i] for i in members]), strict=True))
        return [answers[index] for index in range(len(feeds))]

    def _answer_batch(self, feeds: Sequence[Feed]) -> Sequence[Feed | RequestError]:
        try:
            sizes = [batch_size(feed) for feed in feeds] if self._is_batching else [1]
            return split_outputs(self._run(concatenate_feeds(feeds)), sizes)
        except RequestError as exc:
            if len(feeds) == 1:
                return [exc]
        # Someone in the batch is at fault: run each alone, so that only the guilty one hears of it.
        return [answer for feed in feeds for answer in self._answer_batch([feed])]

    def _run(self, feed: Feed) -> Feed:
        changed = {name: decode_strings(name, feed[name]) for name in self._string_inputs & feed.keys()}
        changed |= {name: changed.get(name, feed[name]).reshape(()) for name in self._scalar_inputs & feed.keys()}
        try:
            arrays = self._device.run(
                tuple(sorted((name, array.shape) for name, array in feed.items())),
                lambda: self._session.run(self.output_names, {**feed, **changed}),
            )
        except Exception as exc:  # whatever ONNX Runtime raises is about this run; the instance must live on
            raise RequestError(f"onnx runtime error: {' '.join(str(exc).split())}", is_invalid=False) from exc
        return dict(zip(self.output_names, map(np.atleast_1d, arrays), strict=True))


class TritonPythonModel:
    """The face towards Triton's stub; names and call order are the Python backend's."""

    @staticmethod
    def auto_complete_config(auto_complete_model_config: Any) -> Any:
        """Leave the configuration as it is: a guess of ours would differ from the C++ backend's."""
        return auto_complete_model_config

    def initialize(self, args: Mapping[str, str]) -> None:
        """Load the instance's model; an exception here makes Triton refuse the load with its message."""
        # Exists only inside the stub; imported late so that the rest of this file is testable without Triton.
        import triton_python_backend_utils as pb_utils

        self._pb = pb_utils
        config = json.loads(args["model_config"])
        try:
            slowdown = parse_slowdown(os.environ.get(SLOWDOWN_VARIABLE))
            session = open_session(
                config,
                Path(args["model_repository"]) / args["model_version"],
                kind=args["model_instance_kind"],
                device_id=args["model_instance_device_id"],
            )
        except LoadError as exc:
            message = f"unable to load model '{args['model_name']}': {exc}"
            raise pb_utils.TritonModelException(message) from None
        self._model = OnnxModel(session, config, SlowDevice(slowdown, os.environ.get(DEVICE_LOCK_VARIABLE)))

    def execute(self, requests: Sequence[Any]) -> list[Any]:
        """Answer the requests of one batch, in order."""
        feeds = [{tensor.name(): tensor.as_numpy() for tensor in request.inputs()} for request in requests]
        answers = self._model.answer(feeds)
        return [self._respond(request, answer) for request, answer in zip(requests, answers, strict=True)]

    def finalize(self) -> None:
        """Free the session before the stub leaves."""
        del self._model

    def _respond(self, request: Any, answer: Feed | RequestError) -> Any:
        pb = self._pb
        if isinstance(answer, RequestError):
            code = pb.TritonError.INVALID_ARG if answer.is_invalid else pb.TritonError.INTERNAL
            return pb.InferenceResponse(error=pb.TritonError(str(answer), code))
        requested = request.requested_output_names()
        return pb.InferenceResponse(
            [pb.Tensor(name, np.ascontiguousarray(answer[name])) for name in answer if name in requested]
        )
