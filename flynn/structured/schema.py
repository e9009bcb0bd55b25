"""From a Python type to a JSON schema, of nothing but the keywords that llama-server's grammar obeys.

Source: llama.cpp, common/json-schema-to-grammar.cpp. What it makes of a schema: keys in the order of `properties`, the
required ones first; no other keys where `additionalProperties` is not given; `prefixItems` only without `items`. It
knows no `uniqueItems`, `dependentRequired`, `not`, `if`; bounds only of integers.
"""

from __future__ import annotations

import re
from typing import Any, Callable, Dict, Sequence, Union, cast

from .forms import (
    Alias,
    Chosen,
    Either,
    Fixed,
    Foreign,
    Form,
    Formatted,
    Items,
    Limited,
    Plain,
    Record,
    Table,
    form_of,
)

Schema = Dict[str, Any]

# Not {}, of which llama.cpp makes any object.
_ANYTHING = ("object", "array", "string", "number", "boolean", "null")
_JSON_TYPES = {str: "string", int: "integer", bool: "boolean", float: "number", type(None): "null"}


def schema_of(annotation: object, where: str = "schema") -> Schema:
    """The JSON schema of a type.

    A type that occurs more than once, or leads back to itself, is under `$defs`, in a name that begins with the name of
    `annotation`: llama.cpp puts the definitions of all tools of a request together.

    Args:
        annotation: a dataclass, a TypedDict, or whatever else can be an annotation in them. For the parameters of a
            function, make a dataclass of them (`dataclasses.make_dataclass`).
        where: what it annotates, for the message of an error; by default "schema".

    Raises:
        TypeError: JSON cannot express it; one line that says what, and where.

    Example:
        >>> schema_of(Dict[str, Optional[int]])
        {'type': 'object', 'additionalProperties': {'anyOf': [{'type': 'integer'}, {'type': 'null'}]}}
    """
    return schema_of_form(form_of(annotation, where))


def schema_of_form(form: Form) -> Schema:
    """The same, from what `form_of` made of the type."""
    try:
        return form.schema() if isinstance(form, Foreign) else _Writer(form).whole()
    except RecursionError:
        raise TypeError("schema: nested too deeply") from None


class _Writer:
    def __init__(self, form: Form) -> None:
        self._root = form
        self._definitions: Dict[str, Schema] = {}
        self._uses: Dict[Union[Record, Alias], int] = {}
        self._names: Dict[Union[Record, Alias], str] = {}
        self._count(form)

    def _count(self, form: Form) -> None:
        """How often each form that has a name is used; what leads back to itself is used more than once."""
        if isinstance(form, (Record, Alias)):
            self._uses[form] = self._uses.get(form, 0) + 1
            if self._uses[form] > 1:
                return
        for inner in _inside(form):
            self._count(inner)

    def whole(self) -> Schema:
        schema = self.write(self._root)
        return {**schema, "$defs": self._definitions} if self._definitions else schema

    def write(self, form: Form) -> Schema:
        if isinstance(form, (Record, Alias)) and self._uses[form] > 1:
            if form not in self._names:
                name = self._names[form] = self._new_name(form.name)
                self._definitions[name] = {}  # keeps the name
                self._definitions[name] = _WRITE[type(form)](self, form)
            return {"$ref": f"#/$defs/{self._names[form]}"}
        return _WRITE[type(form)](self, form)

    def _new_name(self, name: str) -> str:
        """One that is still another one after llama.cpp has made a rule's name of it: of letters, digits and dashes."""
        root = getattr(self._root, "name", "")
        plain = re.sub("[^a-zA-Z0-9]+", "-", name if name == root else f"{root}-{name}").strip("-")
        number = 1
        while (numbered := f"{plain}-{number}" if number > 1 else plain) in self._definitions:
            number += 1
        return numbered

    def _plain(self, form: Plain) -> Schema:
        return {"type": list(_ANYTHING) if form.name == "any" else form.name}

    def _formatted(self, form: Formatted) -> Schema:
        return {"type": "string", "format": form.format}

    def _chosen(self, form: Chosen) -> Schema:
        values = [value for value, _ in form.values]
        kinds = {type(value) for value in values}
        return {**({"type": _JSON_TYPES[kinds.pop()]} if len(kinds) == 1 else {}), "enum": values}

    def _items(self, form: Items) -> Schema:
        return {"type": "array", "items": self.write(form.item)}

    def _fixed(self, form: Fixed) -> Schema:
        items = [self.write(item) for item in form.items]
        return {"type": "array", "prefixItems": items, "minItems": len(items), "maxItems": len(items)}

    def _table(self, form: Table) -> Schema:
        return {"type": "object", "additionalProperties": self.write(form.value)}

    def _either(self, form: Either) -> Schema:
        return {"anyOf": [self.write(member) for member in form.members]}

    def _limited(self, form: Limited) -> Schema:
        described = {} if form.description is None else {"description": form.description}
        return {**self.write(form.form), **form.limits, **described}

    def _foreign(self, form: Foreign) -> Schema:
        schema = dict(form.schema())
        definitions: Dict[str, Schema] = schema.pop("$defs", {})
        references = {}
        for name in definitions:
            new = self._new_name(name)
            self._definitions[new] = {}
            references[f"#/$defs/{name}"] = f"#/$defs/{new}"
        for definition, new in zip(definitions.values(), references.values()):
            self._definitions[new.rpartition("/")[2]] = _renamed(definition, references)
        return cast(Schema, _renamed(schema, references))

    def _record(self, form: Record) -> Schema:
        return {
            "type": "object",
            "properties": {name: self.write(field.form) for name, field in form.fields.items()},
            "required": [name for name, field in form.fields.items() if field.required],
            "additionalProperties": False,
        }

    def _alias(self, form: Alias) -> Schema:
        return self.write(form.form)


_WRITE: Dict[type, Callable[[_Writer, Any], Schema]] = {
    Plain: _Writer._plain,
    Formatted: _Writer._formatted,
    Chosen: _Writer._chosen,
    Items: _Writer._items,
    Fixed: _Writer._fixed,
    Table: _Writer._table,
    Either: _Writer._either,
    Limited: _Writer._limited,
    Foreign: _Writer._foreign,
    Record: _Writer._record,
    Alias: _Writer._alias,
}


def _inside(form: Form) -> Sequence[Form]:
    """The forms that a form is made of."""
    if isinstance(form, Record):
        return [field.form for field in form.fields.values()]
    if isinstance(form, Fixed):
        return form.items
    if isinstance(form, Either):
        return form.members
    if isinstance(form, Items):
        return [form.item]
    if isinstance(form, Table):
        return [form.value]
    return [form.form] if isinstance(form, (Limited, Alias)) else []


def _renamed(schema: Any, references: Dict[str, str]) -> Any:
    """A schema, or a part of one, with other references."""
    if isinstance(schema, list):
        return [_renamed(part, references) for part in schema]
    if not isinstance(schema, dict):
        return schema
    renamed = {key: _renamed(part, references) for key, part in schema.items()}
    if isinstance(schema.get("$ref"), str):
        renamed["$ref"] = references.get(schema["$ref"], schema["$ref"])
    return renamed
