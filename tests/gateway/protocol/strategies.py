"""Tensors of every datatype, for Hypothesis."""

from __future__ import annotations

from typing import NamedTuple

from hypothesis import strategies as st

from orchestrator.gateway.protocol.tensors import DATATYPES, count_elements
from orchestrator.triton.infer_wire import encode_elements


class Tensor(NamedTuple):
    name: str
    datatype: str
    shape: list[int]
    raw: bytes


@st.composite
def tensors(draw: st.DrawFn, *, json_only: bool = False) -> Tensor:
    datatype = draw(st.sampled_from([name for name, kind in DATATYPES.items() if kind.has_json or not json_only]))
    shape = draw(st.lists(st.integers(0, 3), max_size=3))
    count = count_elements(shape)
    if datatype == "BYTES":
        texts = st.text().map(str.encode) if json_only else st.binary()
        raw = encode_elements(draw(st.lists(texts, min_size=count, max_size=count)))
    elif datatype == "BOOL":
        raw = bytes(draw(st.lists(st.integers(0, 1), min_size=count, max_size=count)))
    else:
        size = count * DATATYPES[datatype].size_bytes
        raw = draw(st.binary(min_size=size, max_size=size))
    return Tensor(draw(names), datatype, shape, raw)


names = st.text(st.characters(exclude_categories=("Cs",)), min_size=1, max_size=8)
values = st.one_of(
    st.booleans(),
    st.integers(-(2**63), 2**64 - 1),
    st.floats(allow_nan=False),
    st.text(st.characters(exclude_categories=("Cs",))),
)
parameters = st.dictionaries(names, values, max_size=3)
