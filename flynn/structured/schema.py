"""From a form to a JSON schema, of nothing but the keywords that llama-server's grammar obeys.

Source: llama.cpp, common/json-schema-to-grammar.cpp. What it makes of a schema: keys in the order of `properties`, the
required ones first; no other keys where `additionalProperties` is not given; `prefixItems` only without `items`. It
knows no `uniqueItems`, `dependentRequired`, `not`, `if`; bounds only of integers.
"""

from __future__ import annotations

import json
import re
from typing import Dict, cast

from .nodes import Foreign, Named, Node, Schema


def schema_of(form: Node) -> Schema:
    """The JSON schema of a form.

    What occurs more than once, or leads back to itself, is under `$defs`, in a name that begins with the name of the
    whole: llama.cpp puts the definitions of all tools of a request together.

    Raises:
        TypeError: it is nested too deeply.

    Example:
        >>> schema_of(node_of(Dict[str, Optional[int]]))
        {'type': 'object', 'additionalProperties': {'anyOf': [{'type': 'integer'}, {'type': 'null'}]}}
    """
    if isinstance(form, Foreign):
        return cast(Schema, form.kind.model_json_schema())
    writer = SchemaWriter(getattr(form, "name", ""))
    try:
        schema = writer.write(form)
    except RecursionError:
        raise TypeError("schema: nested too deeply") from None
    return {**schema, "$defs": writer.definitions} if writer.definitions else schema


class SchemaWriter:
    def __init__(self, root: str) -> None:
        self.definitions: Dict[str, Schema] = {}
        self._root = root
        self._names: Dict[Named, str] = {}

    def write(self, form: Node) -> Schema:
        """The schema of a form, or a reference to it."""
        if not isinstance(form, Named) or not form.shared:
            return form.schema(self)
        if form not in self._names:
            name = self._names[form] = self._new_name(form.name)
            self.definitions[name] = form.schema(self)
        return {"$ref": f"#/$defs/{self._names[form]}"}

    def adopt(self, schema: Schema) -> Schema:
        """A schema that has its own definitions, with these among the others."""
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
        # Still another one after llama.cpp has made a rule's name of it: of letters, digits and dashes.
        plain = re.sub("[^a-zA-Z0-9]+", "-", name if name == self._root else f"{self._root}-{name}").strip("-")
        number, numbered = 1, plain
        while numbered in self.definitions:
            number += 1
            numbered = f"{plain}-{number}"
        self.definitions[numbered] = {}  # keeps the name
        return numbered
