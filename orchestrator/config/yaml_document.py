"""A YAML text as values, with the line that each of them stands on, and the keys that stand there twice.

PyYAML keeps the last of two equal keys and says nothing, so that a second ``router:`` would undo the first one unseen.
Nodes that aliases name again are looked at once: a text of a few lines may stand for billions of values. What PyYAML
says of a text that is none is put into words here, because its own are those of its grammar, or Python's.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any, Final, NamedTuple

import yaml
from yaml.constructor import ConstructorError
from yaml.reader import ReaderError

from orchestrator.validation import Location, quote_value

_KINDS: Final = {"timestamp": "date", "int": "whole number", "float": "number", "bool": "true or false"}
"""What scalars are that may not be what they look like, by the end of their tag."""
_WORDS: Final = (
    (r"found unhashable key", "a key must be text, and this one is a list or holds keys itself"),
    (r"could not determine a constructor for the tag (.*)", "the tag {} means nothing here; remove it"),
    (r"expected a (?:mapping|sequence|scalar).*, but found .*", "the tag, or '<<', does not fit what stands behind it"),
    (r"found undefined alias '(.*)'", "*{0} repeats nothing; mark what it stands for with &{0}, above it"),
    (r"second occurrence", "the same &name is there twice; rename one"),
    (r"but found another document", "another document begins here; keep one"),
    (r"found character '\\t' that .*", "there is a tab; use spaces"),
    (r"found character (.*) that cannot start any token", "text can't begin with {}; put quotes around it"),
    (r"mapping values are not allowed here", "':' can't stand here; put quotes around text that has it"),
    (r"expected <block end>, but found .*", "it does not fit the lines above; check how far each is indented"),
    (r"expected '(.)' or '(.)', but got .*", "'{}' or '{}' is missing before this"),
    (r"expected the node content, but found .*", "there is no value where one belongs"),
    (r"could not find expected ':'", "a key without ':'"),
    (r"found unexpected end of stream", "the text ends within quotes"),
    (r"found unknown escape character '(.*)'", "\\{} means nothing in double quotes; use single ones"),
)
"""For what PyYAML says, as patterns, what is to be said; what is none of it is told as it is."""


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


class _Loader(yaml.SafeLoader):
    """PyYAML's, which says of each value that can't be one on which line it is."""

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        try:
            return super().construct_object(node, deep=deep)
        except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as exc:  # of int or datetime
            kind = _KINDS.get(node.tag.rpartition(":")[2], "such value")
            why = f"{quote_value(node.value)} is no {kind}; put quotes around it if it is text"
            raise ConstructorError(None, None, why, node.start_mark) from exc


def read_yaml(text: str) -> YamlDocument:
    """Return what the text spells; raises RecursionError or YAMLError, see ``say_problem``, of what can't be read."""
    loader = _Loader(text)
    try:
        root = loader.get_single_node()
        counts = Counter(at for at, _ in _places(root, (), set()))
        doubled = tuple(at for at, count in counts.items() if count > 1)
        values = None if root is None else loader.construct_document(root)
        # What a merge key brings in is there now, and was nowhere twice before.
        return YamlDocument(values, dict(_places(root, (), set())), doubled)
    finally:
        loader.dispose()


def say_problem(error: Exception, *, is_secret: bool) -> str:
    """Return where and why ``read_yaml`` could not read a text; of secrets only where."""
    mark = getattr(error, "problem_mark", None)
    where = "line unknown" if mark is None else f"line {mark.line + 1}, column {mark.column + 1}"
    if is_secret:
        return where if mark is None else f"see {where}"
    if isinstance(error, RecursionError):
        return "lists and keys are nested too deeply in it"
    if isinstance(error, ReaderError):
        return f"it has the character number {error.character}, which no text has"
    why = " ".join(str(getattr(error, "problem", None) or error).split())
    for pattern, words in _WORDS:
        if found := re.fullmatch(pattern, why):
            why = words.format(*found.groups())
            break
    return why if mark is None else f"{where}: {why}"


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
