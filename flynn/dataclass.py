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
    _MISSING = object()

    class field:
        """As `dataclasses.field`."""

        default, default_factory, repr, metadata = _MISSING, None, True, {}

        def __init__(self, **given):
            self.__dict__.update(given)

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
            found = cls.__dict__.get(name, _MISSING)
            if not isinstance(found, field):
                found = field() if found is _MISSING else field(default=found)
            elif found.default is _MISSING:
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
        cls.__replace__ = replace  # copy.replace of Python 3.13
        for name, make in (("__signature__", _signature), ("__dataclass_fields__", _standard_fields)):
            setattr(cls, name, _WhenAsked(name, make))
        return cls

    def _fill(self, args, kwargs):
        """What `__init__` does, for one instance that is not worth compiling it; False if the arguments are wrong."""
        given = {**dict(zip(self.__match_args__, args)), **kwargs}
        fits = len(given) == len(args) + len(kwargs)
        for found in self._fields:
            default = found.default if found.default_factory is None else found.default_factory()
            value = self.__dict__[found.name] = given.pop(found.name, default)
            fits = fits and value is not _MISSING
        return fits and not given

    def _compile_init(cls):
        """Make the `__init__` of a class: a millisecond for the largest, so not for the first instance."""
        # Into the dictionary: a call of object.__setattr__ for each field would take twice as long.
        values, parameters, lines = {"_MISSING": _MISSING}, ["self"], ["d = self.__dict__"]
        for number, found in enumerate(cls._fields):
            name, value, default = found.name, found.name, ""
            if found.default_factory is not None:
                values[f"f{number}"], default = found.default_factory, "=_MISSING"
                value = f"f{number}() if {name} is _MISSING else {name}"
            elif found.default is not _MISSING:
                values[f"v{number}"], default = found.default, f"=v{number}"
            parameters.append(name + default)
            lines.append(f"d[{name!r}] = {value}")
        exec(f"def __init__({', '.join(parameters)}):\n  " + "\n  ".join(lines), values)
        cls.__init__ = values["__init__"]
        cls.__init__.__qualname__ = f"{cls.__qualname__}.__init__"

    class _WhenAsked:
        """An attribute of a class that is made when somebody looks."""

        def __init__(self, name, make):
            self.name, self.make = name, make

        def __get__(self, instance, cls):
            value = self.make(cls)
            setattr(cls, self.name, value)
            return value

    def _signature(cls):
        """What `help` and `inspect.signature` show."""
        import inspect

        _compile_init(cls)
        signature = inspect.signature(cls.__init__)
        return signature.replace(parameters=[*signature.parameters.values()][1:])

    def _standard_fields(cls):
        """What the standard library finds its own fields in."""
        import dataclasses

        declared = []
        for found in cls._fields:
            given = {key: value for key, value in vars(found).items() if key not in ("name", "type")}
            declared.append((found.name, found.type, dataclasses.field(**given)))
        return dataclasses.make_dataclass(cls.__name__, declared, frozen=True).__dataclass_fields__

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
