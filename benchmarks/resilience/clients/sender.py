"""An open-loop client of its own: ``python -m`` with GRPC PLAN REPLIES, see `plan` for the files.

Half of the requests are unary calls and half go over one stream, by turns, from `tritonclient.grpc.aio` with gRPC's
retries switched off; the client asks for nothing twice. Requests are due at even distances, whether or not earlier ones
are answered, and what became of each is written when all is over. Prints a line with the monotonic clock, which
processes of one machine share, when the first request is due.
"""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from tritonclient.grpc import InferInput
from tritonclient.grpc.aio import InferenceServerClient
from tritonclient.utils import InferenceServerException

from benchmarks.resilience.clients.plan import PLAN, REPLIES, Plan, Replies

FAMILY, INPUT, OUTPUT = "fashion", "pixels", "logits"
NEVER_S = 15.0
"""After the last request; what has not been answered by then never is."""
LEAD_S = 0.5
"""From the connections' being there to the first request."""
TOLERANCE = 0.02
"""Of the largest score, as for the router's own probes."""
_CHANNEL = [("grpc.enable_retries", 0)]
_STREAM_STATUSES = {"retry later": "RESOURCE_EXHAUSTED", "no answer within its deadline": "DEADLINE_EXCEEDED"}


@dataclass(slots=True)
class Sender:
    """Sends a plan and remembers what became of it.

    Attributes:
        plan: What to send.
        expected: The right scores by width, each float32 [images, classes].
        images: The images, float32 [images, ...].
        replies: What became of each request.
    """

    plan: Plan
    expected: dict[int, Any]
    images: Any
    replies: Replies

    def batch(self, number: int) -> tuple[Any, Any]:
        """Return the indices of a request's images and the images."""
        chosen = (np.arange(self.plan.items) + number) % len(self.images)
        return chosen, self.images[chosen]

    def inputs(self, number: int) -> list[Any]:
        """Return a request's tensor."""
        _, batch = self.batch(number)
        tensor = InferInput(INPUT, list(batch.shape), "FP32")
        tensor.set_data_from_numpy(batch)
        return [tensor]

    def take(self, number: int, answer: Any, at_s: float) -> None:
        """Note an answer."""
        replies = self.replies
        replies.answers[number] += 1
        if replies.answers[number] > 1:
            return
        parameters = answer.get_response().parameters
        width = parameters["slim_width"].int64_param
        replies.ended_s[number], replies.status[number] = at_s, "ok"
        replies.width[number], replies.server[number] = width, parameters["slim_server"].string_param
        replies.accuracy[number] = parameters["slim_expected_accuracy"].double_param
        right, found = self.expected[width][self.batch(number)[0]], answer.as_numpy(OUTPUT)
        tolerance = TOLERANCE * float(np.abs(right).max())
        replies.is_right[number] = found.shape == right.shape and bool((np.abs(found - right) <= tolerance).all())

    def fail(self, number: int, status: str, text: str, at_s: float) -> None:
        """Note an error."""
        self.replies.answers[number] += 1
        self.replies.ended_s[number], self.replies.status[number] = at_s, status
        self.replies.texts[number] = text

    async def run(self, address: str) -> None:
        """Send everything."""
        loop = asyncio.get_running_loop()
        numbers: asyncio.Queue[int | None] = asyncio.Queue()
        async with (
            InferenceServerClient(address, channel_args=_CHANNEL) as unary,
            InferenceServerClient(address, channel_args=[*_CHANNEL, ("grpc.channel_id", 1)]) as streaming,
        ):
            await asyncio.gather(unary.is_server_ready(), streaming.is_server_ready())
            began_s = loop.time() + LEAD_S
            print(json.dumps({"began_s": began_s}), flush=True)
            reading = asyncio.create_task(self._stream(streaming, numbers, began_s))
            calls = [reading]
            for number, due_s in enumerate(self.replies.due_s):
                await asyncio.sleep(max(0.0, began_s + due_s - loop.time()))
                self.replies.sent_s[number] = loop.time() - began_s
                if self.plan.uses_stream(number):
                    numbers.put_nowait(number)
                else:
                    calls.append(asyncio.create_task(self._call(unary, number, began_s)))
            numbers.put_nowait(None)
            _, pending = await asyncio.wait(calls, timeout=NEVER_S)
            for call in pending:
                call.cancel()
            await asyncio.gather(*calls, return_exceptions=True)

    async def _call(self, client: Any, number: int, began_s: float) -> None:
        loop = asyncio.get_running_loop()
        try:
            answer = await client.infer(
                FAMILY, self.inputs(number), request_id=str(number), parameters=self.plan.parameters
            )
            self.take(number, answer, loop.time() - began_s)
        except InferenceServerException as exc:
            self.fail(number, str(exc.status()).removeprefix("StatusCode."), exc.message(), loop.time() - began_s)

    async def _stream(self, client: Any, numbers: asyncio.Queue[int | None], began_s: float) -> None:
        loop = asyncio.get_running_loop()
        is_over = False

        async def requests() -> AsyncIterator[dict[str, Any]]:
            nonlocal is_over
            while (number := await numbers.get()) is not None:
                yield {
                    "model_name": FAMILY,
                    "inputs": self.inputs(number),
                    "request_id": str(number),
                    "parameters": self.plan.parameters,
                }
            is_over = True

        # Not tritonclient's own reader: it leaves out which request an error is for.
        responses = client.stream_infer(requests())._grpc_call
        try:
            async for response in responses:
                at_s, number = loop.time() - began_s, int(response.infer_response.id)
                if response.error_message:
                    self.fail(number, _status_of(response.error_message), response.error_message, at_s)
                else:
                    self.take(number, _Answer(response.infer_response), at_s)
        except Exception as exc:  # the stream broke: what it carried is unanswered, and this says why
            self.replies.stream_ended = f"{type(exc).__name__}: {exc}"


def _status_of(text: str) -> str:
    """Return the status that a call would have had; a stream has the words only."""
    found = (status for words, status in _STREAM_STATUSES.items() if words in text)
    return next(found, "STREAM_ERROR")


class _Answer:
    """A stream's answer, as tritonclient has one of a call."""

    def __init__(self, response: Any) -> None:
        self._response = response

    def get_response(self) -> Any:
        return self._response

    def as_numpy(self, name: str) -> Any:
        number = next(n for n, output in enumerate(self._response.outputs) if output.name == name)
        output = self._response.outputs[number]
        return np.frombuffer(self._response.raw_output_contents[number], np.float32).reshape(list(output.shape))


def main(address: str, plan_path: str, replies_path: str) -> None:
    """Send a plan and write what became of it."""
    plan = PLAN.validate_json(Path(plan_path).read_bytes())
    with np.load(plan.images) as arrays:
        expected = {int(name.removeprefix("w")): arrays[name] for name in arrays.files if name.startswith("w")}
        sender = Sender(plan, expected, arrays["images"], Replies.of(plan))
    asyncio.run(sender.run(address))
    Path(replies_path).write_bytes(REPLIES.dump_json(sender.replies))


if __name__ == "__main__":
    main(*sys.argv[1:])
