"""A YAML text as values, with the line that each of them stands on, and the keys that stand there twice.

PyYAML keeps the last of two equal keys and says nothing, so that a second ``router:`` would undo the first one unseen.
Nodes that aliases name again are looked at once: a text of a few lines may stand for billions of values.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import yaml

from orchestrator.validation import Location


class YamlDocument(NamedTuple):
    """What a text spells.

    Attributes:
        values: as PyYAML's safe loader makes them.
        lines: the line, from 1, of each key and entry.
        doubled: the keys that stand in one mapping more than once.
    """

    values: Any
    lines: Mapping[Location, int]
    doubled: tuple[Location, ...]


def read_yaml(text: str) -> YamlDocument:
    """Return what the text spells; raises whatever PyYAML, int, float and datetime say of one that can't be read."""
    loader = yaml.SafeLoader(text)
    try:
        root = loader.get_single_node()
        counts = Counter(at for at, _ in _places(root, (), set()))
        doubled = tuple(at for at, count in counts.items() if count > 1)
        values = None if root is None else loader.construct_document(root)
        # What a merge key brings in is there now, and was nowhere twice before.
        return YamlDocument(values, dict(_places(root, (), set())), doubled)
    finally:
        loader.dispose()


def _places(node: yaml.Node | None, at: Location, seen: set[int]) -> Iterator[tuple[Location, int]]:
    if node is None or id(node) in seen:
        return
    seen.add(id(node))
    if isinstance(node, yaml.SequenceNode):
        for index, entry in enumerate(node.value):
            yield (*at, index), entry.start_mark.line + 1
            yield from _places(entry, (*at, index), seen)
    elif isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            if isinstance(key, yaml.ScalarNode) and key.tag != "tag:yaml.org,2002:merge":
                yield (*at, key.value), key.start_mark.line + 1
                yield from _places(value, (*at, key.value), seen)
