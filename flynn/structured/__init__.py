"""Typed answers: from a Python type to a JSON schema, and from the JSON that a model writes back to the type.

    types.py    what an annotation means, as data: the one place that knows Python's typing
    schema.py   a type -> JSON schema, of the keywords that llama-server holds a model to
    build.py    a JSON value -> an instance
    partial.py  JSON that is still growing

All of this is pure, and loaded only when it is used.
"""
