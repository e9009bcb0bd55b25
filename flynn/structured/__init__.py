"""Typed answers: from a Python type to a JSON schema, and from the JSON that a model writes back to the type.

    forms.py    what an annotation means as JSON, as data; limits.py: what Annotated adds to it
    schema.py   a type -> JSON schema, of the keywords that llama-server holds a model to
    build.py    a JSON value -> an instance
    partial.py  JSON that is still growing
    answer.py   what is sent for an answer of a type, and how a reply becomes one; stream.py: while it grows

Nothing here does I/O, and all of it is loaded only when it is used.
"""
