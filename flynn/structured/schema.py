"""From a node to its JSON schema.

Source: llama.cpp, common/json-schema.cpp. Its grammar has keys in the order of `properties`, the required ones first,
and no other keys where `additionalProperties` is missing; `prefixItems` only without `items`. It has no `uniqueItems`,
`dependentRequired`, `not` or `if`, and bounds only for integers; grammar.py says what else.
"""

from __future__ import annotations

import json
import re
from typing import Dict

from .grammar import narrow
from .nodes import Foreign, Named, Node, Schema


def schema_of(node: Node) -> Schema:
    """Return the JSON schema of a node, as llama.cpp obeys it.

    A node that occurs more than once, or leads back to itself, is under `$defs`. Its name there begins with the name of
    the root, since llama.cpp puts the definitions of all tools of a request together.

    Raises:
        TypeError: it is nested too deeply.

    Example:
        >>> schema_of(node_of(Dict[str, Optional[int]]))
        {'type': 'object', 'additionalProperties': {'anyOf': [{'type': 'integer'}, {'type': 'null'}]}}
    """
    writer = SchemaWriter(getattr(node, "name", ""))
    try:
        schema = node.own if isinstance(node, Foreign) else writer.write(node)
        narrowed: Schema = narrow({**schema, "$defs": writer.definitions} if writer.definitions else schema)
        return narrowed
    except RecursionError:
        raise TypeError("schema: nested too deeply") from None


class SchemaWriter:
    def __init__(self, root: str) -> None:
        self.definitions: Dict[str, Schema] = {}
        self._root = root
        self._names: Dict[Named, str] = {}

    def write(self, node: Node) -> Schema:
        """Return the schema of a node, or a reference to it."""
        if not isinstance(node, Named) or not node.shared:
            return node.schema(self)
        if node not in self._names:
            name = self._names[node] = self._new_name(node.name)
            self.definitions[name] = node.schema(self)
        return {"$ref": f"#/$defs/{self._names[node]}"}

    def adopt(self, schema: Schema) -> Schema:
        """Move the definitions of a schema to these ones, under new names, and return the rest of it."""
        names = {name: self._new_name(name) for name in schema.get("$defs", ())}
        references = {f"#/$defs/{name}": f"#/$defs/{new}" for name, new in names.items()}

        def renamed(part: Schema) -> Schema:
            if isinstance(part.get("$ref"), str):
                part["$ref"] = references.get(part["$ref"], part["$ref"])
            return part

        adopted: Schema = json.loads(json.dumps(schema), object_hook=renamed)
        for name, definition in adopted.pop("$defs", {}).items():
            self.definitions[names[name]] = definition
        return adopted

    def _new_name(self, name: str) -> str:
        # Letters, digits and dashes: different names stay different when llama.cpp makes rule names of them.
        plain = re.sub("[^a-zA-Z0-9]+", "-", name if name == self._root else f"{self._root}-{name}").strip("-")
        number, numbered = 1, plain
        while numbered in self.definitions:
            number += 1
            numbered = f"{plain}-{number}"
        self.definitions[numbered] = {}  # reserves the name
        return numbered
