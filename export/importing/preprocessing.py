"""What an image file goes through before an imported network, as whoever trained it says on the command line."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Final

from export.errors import VariantError
from export.repository.routing import read_preprocessing, require_image
from export.repository.signature import Signature

_FORM: Final = (
    "resize=PIXELS, colours=RGB|BGR|L, layout=CHW|HWC, scale=NUMBER, mean=NUMBER[/NUMBER/NUMBER] and std likewise"
)


def parse_preprocessing(text: str) -> str:
    """Return the value of ``slim.preprocessing`` for KEY=VALUE with commas between; raises VariantError."""
    found: dict[str, Any] = {}
    for entry in filter(None, text.split(",")):
        key, _, value = entry.strip().partition("=")
        if key in found:
            raise VariantError(f"--preprocessing: {key} is given twice; give it once")
        found[key] = _value(key, value)
    if not found:
        raise VariantError(f"--preprocessing {text!r}: says nothing; give {_FORM}")
    written = json.dumps(found, sort_keys=True)
    try:
        read_preprocessing(written)
    except ValueError as exc:
        raise VariantError(f"--preprocessing {text}: {exc}; give {_FORM}") from exc
    return written


def require_fit(text: str, signature: Signature, items: Mapping[str, tuple[int, ...]]) -> None:
    """Raise VariantError when what ``slim.preprocessing`` makes of an image file is not what models take as an item."""
    inputs = [(t.name, t.data_type.removeprefix("TYPE_"), items.get(t.name, t.dims)) for t in signature.inputs]
    try:
        require_image(text, inputs)
    except ValueError as exc:
        raise VariantError(f"--preprocessing {text}: {exc}; correct it or leave it out") from exc


def _value(key: str, text: str) -> Any:
    """Return a value as JSON has it."""
    if text.isascii() and text.isdecimal() and key == "resize":
        return int(text)
    try:
        numbers = [float(number) for number in text.split("/")]
    except ValueError:
        return text
    return numbers if key in ("mean", "std") else numbers[0] if len(numbers) == 1 else text
