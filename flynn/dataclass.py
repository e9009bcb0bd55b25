"""Frozen data classes that cost next to nothing to define.

The standard library's `dataclass` imports `inspect`, and compiles half a dozen functions a class: with the classes of
this package that was 24 of 70 ms from a new process to the first streamed token. This one compiles `__init__` alone,
and only for those classes that have a second instance.

To type checkers what it makes is a dataclass, and at run time too: `dataclasses.fields`, `replace`, `asdict` and
`is_dataclass` work on it, and load `dataclasses` only then. It knows what this package uses: frozen classes without
inheritance, and fields with `default`, `default_factory`, `repr` and `metadata`.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from dataclasses import dataclass as dataclass
    from dataclasses import field as field
    from dataclasses import fields as fields
    from dataclasses import replace as replace
else:
    _REQUIRED = object()
    _NOT_GIVEN = object()

    class _Field:
        __slots__ = ("name", "type", "default", "default_factory", "repr", "metadata")

        def __init__(self, default, default_factory, repr, metadata):
            self.default, self.default_factory, self.repr, self.metadata = default, default_factory, repr, metadata

    def field(*, default=_REQUIRED, default_factory=None, repr=True, metadata=None):
        """As `dataclasses.field`."""
        return _Field(default, default_factory, repr, metadata or {})

    def fields(declared):
        """The fields of a class or an instance, in their order, each with `name`, `type`, `default` and `metadata`."""
        return declared._fields

    def replace(instance, /, **changes):
        """As `dataclasses.replace`."""
        return instance.__class__(**{**instance.__dict__, **changes})

    def dataclass(*, frozen):
        """As `dataclasses.dataclass`."""
        return _declare

    def _declare(cls):
        declared = []
        for name, type in cls.__dict__["__annotations__"].items():
            found = cls.__dict__.get(name, _REQUIRED)
            if not isinstance(found, _Field):
                found = _Field(found, None, True, {})
            elif found.default is _REQUIRED:
                delattr(cls, name)
            else:
                setattr(cls, name, found.default)
            found.name, found.type = name, type
            declared.append(found)
        cls._fields = tuple(declared)
        cls.__match_args__ = tuple(found.name for found in declared)
        for method in (__setattr__, __delattr__, __eq__, __hash__, __repr__):
            if method.__name__ not in cls.__dict__ or method is __hash__:
                setattr(cls, method.__name__, method)

        def first_init(self, *args, **kwargs):
            cls.__init__ = second_init
            if not _fill(self, args, kwargs):
                self.__init__(*args, **kwargs)

        def second_init(self, *args, **kwargs):
            _compile_init(cls)
            self.__init__(*args, **kwargs)

        cls.__init__ = first_init
        cls.__signature__ = _Signature()
        cls.__replace__ = replace  # copy.replace of Python 3.13
        cls.__dataclass_fields__ = _StandardFields()
        return cls

    def _fill(self, args, kwargs):
        """What `__init__` does, for one instance that is not worth compiling it; False if the arguments are wrong."""
        given = {**dict(zip(self.__match_args__, args)), **kwargs}
        fits = len(given) == len(args) + len(kwargs) and given.keys() <= set(self.__match_args__)
        values = self.__dict__
        for found in self._fields:
            if found.name in given:
                values[found.name] = given[found.name]
            elif found.default_factory is not None:
                values[found.name] = found.default_factory()
            else:
                values[found.name] = found.default
                fits = fits and found.default is not _REQUIRED
        return fits

    def _compile_init(cls):
        """Make the `__init__` of a class: a millisecond for the largest, so not for the first instance."""
        # Into the dictionary: a call of object.__setattr__ for each field would take twice as long.
        values, parameters, lines = {"_NOT_GIVEN": _NOT_GIVEN}, ["self"], ["d = self.__dict__"]
        for number, found in enumerate(cls._fields):
            name, value, default = found.name, found.name, ""
            if found.default_factory is not None:
                values[f"f{number}"], default = found.default_factory, "=_NOT_GIVEN"
                value = f"f{number}() if {name} is _NOT_GIVEN else {name}"
            elif found.default is not _REQUIRED:
                values[f"v{number}"], default = found.default, f"=v{number}"
            parameters.append(name + default)
            lines.append(f"d[{name!r}] = {value}")
        exec(f"def __init__({', '.join(parameters)}):\n  " + "\n  ".join(lines), values)
        cls.__init__ = values["__init__"]
        cls.__init__.__qualname__ = f"{cls.__qualname__}.__init__"

    class _Signature:
        """What `help` and `inspect.signature` show."""

        def __get__(self, instance, cls):
            import inspect

            _compile_init(cls)
            signature = inspect.signature(cls.__init__)
            cls.__signature__ = signature.replace(parameters=[*signature.parameters.values()][1:])
            return cls.__signature__

    class _StandardFields:
        """What the standard library finds its own fields in, made when it looks."""

        def __get__(self, instance, cls):
            import dataclasses

            twin = type(cls.__name__, (), {"__annotations__": {found.name: found.type for found in cls._fields}})
            for found in cls._fields:
                given = {"repr": found.repr, "metadata": found.metadata}
                if found.default_factory is not None:
                    given["default_factory"] = found.default_factory
                elif found.default is not _REQUIRED:
                    given["default"] = found.default
                setattr(twin, found.name, dataclasses.field(**given))
            cls.__dataclass_fields__ = dataclasses.dataclass(frozen=True)(twin).__dataclass_fields__
            return cls.__dataclass_fields__

    def __setattr__(self, name, value):
        raise _frozen(f"cannot assign to field {name!r}")

    def __delattr__(self, name):
        raise _frozen(f"cannot delete field {name!r}")

    def _frozen(message):
        from dataclasses import FrozenInstanceError

        return FrozenInstanceError(message)

    def __eq__(self, other):
        return self.__dict__ == other.__dict__ if other.__class__ is self.__class__ else NotImplemented

    def __hash__(self):
        return hash(tuple(self.__dict__.values()))

    def __repr__(self):
        shown = (f"{found.name}={self.__dict__[found.name]!r}" for found in self._fields if found.repr)
        return f"{self.__class__.__qualname__}({', '.join(shown)})"
