"""From a node to its JSON schema.

Source: llama.cpp, common/json-schema.cpp. Its grammar has keys in the order of `properties`, the required ones first,
and no other keys where `additionalProperties` is missing; `prefixItems` only without `items`. It has no `uniqueItems`,
`dependentRequired`, `not` or `if`, and bounds only for integers; grammar.py says what else.
"""

from __future__ import annotations

import itertools
import re
from typing import Any, Dict

from .grammar import narrow
from .nodes import Definition, Node, Schema


def schema_of(node: Node) -> Schema:
    """Return the JSON schema of a node, as llama.cpp obeys it. Raises TypeError if it is nested too deeply.

    Names under `$defs` begin with the root's, since llama.cpp puts the definitions of all tools of a request together.

    Example:
        >>> schema_of(node_of(Dict[str, Optional[int]]))
        {'type': 'object', 'additionalProperties': {'anyOf': [{'type': 'integer'}, {'type': 'null'}]}}
    """
    writer = _SchemaWriter(getattr(node.schema.get("$ref"), "name", ""))
    try:
        schema = writer.write(node.schema)
        narrowed: Schema = narrow({**schema, "$defs": writer.definitions} if writer.definitions else schema)
        return narrowed
    except RecursionError:
        raise TypeError("schema: nested too deeply") from None


class _SchemaWriter:
    def __init__(self, root: str) -> None:
        self.definitions: Dict[str, Schema] = {}
        self._root = root
        self._references: Dict[Definition, str] = {}

    def write(self, part: Any) -> Any:
        """Return a part of a schema with each `Definition` written in place, or as a reference if it is shared."""
        if isinstance(part, list):
            return [self.write(member) for member in part]
        if not isinstance(part, dict):
            return part
        definition = part.get("$ref")
        if not isinstance(definition, Definition):
            return {keyword: self.write(value) for keyword, value in part.items()}
        schema = {"$ref": self._refer(definition)} if definition.shared else self.write(definition.schema)
        return {**schema, **{keyword: self.write(value) for keyword, value in part.items() if keyword != "$ref"}}

    def _refer(self, definition: Definition) -> str:
        if definition not in self._references:
            name = self._new_name(definition.name)
            self.definitions[name] = {}  # reserves the name
            self._references[definition] = f"#/$defs/{name}"
            self.definitions[name] = self.write(definition.schema)
        return self._references[definition]

    def _new_name(self, name: str) -> str:
        # Letters, digits and dashes: different names stay different when llama.cpp makes rule names of them.
        plain = re.sub("[^a-zA-Z0-9]+", "-", name if name == self._root else f"{self._root}-{name}").strip("-")
        names = itertools.chain([plain], (f"{plain}-{number}" for number in itertools.count(2)))
        return next(name for name in names if name not in self.definitions)
