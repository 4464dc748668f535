"""What an image file goes through before an imported network, as whoever trained it says on the command line."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any, Final

from export.errors import VariantError
from export.repository.routing import require_image
from export.repository.signature import Signature

_CHOICES: Final = {"colours": ("RGB", "BGR", "L"), "layout": ("CHW", "HWC")}
_NUMBERS: Final = ("mean", "std")
_FORM: Final = (
    "resize=PIXELS, colours=RGB|BGR|L, layout=CHW|HWC, scale=NUMBER, mean=NUMBER[/NUMBER/NUMBER] and std likewise"
)
_MOST_PIXELS: Final = 65_536


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
    return json.dumps(found, sort_keys=True)


def require_fit(text: str, signature: Signature, items: Mapping[str, tuple[int, ...]]) -> None:
    """Raise VariantError when what ``slim.preprocessing`` makes of an image file is not what models take as an item."""
    inputs = [(t.name, t.data_type.removeprefix("TYPE_"), items.get(t.name, t.dims)) for t in signature.inputs]
    try:
        require_image(text, inputs)
    except ValueError as exc:
        raise VariantError(f"--preprocessing {text}: {exc}; correct it or leave it out") from exc


def _value(key: str, text: str) -> Any:
    if key in _CHOICES and text in _CHOICES[key]:
        return text
    if key == "resize" and text.isascii() and text.isdecimal() and 1 <= int(text) <= _MOST_PIXELS:
        return int(text)
    if key in ("scale", *_NUMBERS):
        try:
            numbers = [float(number) for number in text.split("/")]
        except ValueError:
            numbers = [math.nan]
        is_right = all(map(math.isfinite, numbers)) and (key == "mean" or min(numbers) > 0)
        if is_right and len(numbers) in ((1,) if key == "scale" else (1, 3)):
            return numbers[0] if key == "scale" else numbers
    raise VariantError(f"--preprocessing {key}={text}: is none of {_FORM}")
