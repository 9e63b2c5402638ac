"""The habits every room shares: frozen options, families of them, and errors that tell the reader what to do."""

import os
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from importlib import import_module
from importlib.metadata import entry_points
from inspect import isabstract
from itertools import pairwise
from pathlib import Path
from pkgutil import iter_modules
from typing import Any, ClassVar, Self, get_args

from pydantic import BaseModel, ConfigDict, Field, GetCoreSchemaHandler, ValidationError
from pydantic_core import CoreSchema, core_schema, to_jsonable_python

EXTENSIONS = "dynamics.extensions"
"""Group of entry points by which an installed package names its modules with new members of families."""
EXTENSIONS_VARIABLE = "DYNAMICS_EXTENSIONS"
"""Environment variable that names such modules where nothing is installed, separated by commas."""

_SHOWN = 3000
"""Characters of what was received that an error shows, of its two ends."""


class Options(BaseModel):
    """A room's options: immutable, and an unknown field is an error rather than a silent default."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True, allow_inf_nan=False)

    @classmethod
    def read(cls, path: Path, remedy: str = "restore the file from a copy") -> Self:
        """Return the options in a JSON file.

        Raises:
            ValueError: It holds something else; the message names the file.
        """
        try:
            return cls.model_validate_json(path.read_bytes())
        except ValidationError as error:
            raise explained_problem(error, remedy, str(path)) from error

    def complete(self) -> dict[str, Any]:
        """Return every option as JSON has it, those at defaults of `later` included."""
        return {name: _complete(getattr(self, name)) for name in type(self).model_fields}


class Family(Options):
    """Options of several kinds, such as objectives. A subclass whose kind has a default joins by being defined.

    A direct subclass is the root of a family. A field annotated with the root takes any member, or JSON whose `kind`
    (the family's `TAG`) names one. Members come from this package, from modules that installed packages name as entry
    points of the group `dynamics.extensions`, and from those named in the variable DYNAMICS_EXTENSIONS; never from a
    file of results.

    Example:
        >>> class Shape(Family):
        ...     pass
        >>> class Circle(Shape):
        ...     kind: str = "circle"
        ...     radius: float = 1.0
        >>> class Drawing(Options):
        ...     shape: Shape
        >>> Drawing.model_validate({"shape": {"kind": "circle", "radius": 2}}).model_dump_json()
        '{"shape":{"kind":"circle","radius":2.0}}'
    """

    TAG: ClassVar[str] = "kind"
    """Name of the field that tells the members apart."""
    _root: ClassVar[type["Family"]]
    _members: ClassVar[dict[str, type["Family"]]]

    @classmethod
    def __pydantic_init_subclass__(cls, **kwargs: Any) -> None:
        super().__pydantic_init_subclass__(**kwargs)
        if Family in cls.__bases__:
            cls._root, cls._members = cls, {}
            return
        field = cls.model_fields.get(cls.TAG)
        kind = None if field is None else field.default
        if not isinstance(kind, str):
            return
        if isabstract(cls):  # else it would be missing from its family, and nothing would say so
            lacking = ", ".join(sorted(cls.__abstractmethods__))
            raise invalid(
                f"{cls.__module__}.{cls.__qualname__}", f"no {lacking}", "all methods of its family", "add it"
            )
        there = cls._members.get(kind)
        if there is not None and (there.__module__, there.__qualname__) != (cls.__module__, cls.__qualname__):
            received = f"{kind} of {cls.__module__}.{cls.__qualname__}"
            remedy = "give it a name of its own"
            raise invalid(f"{cls._root.__name__}.{cls.TAG}", received, f"a name that {there} has not taken", remedy)
        cls._members[kind] = cls

    @classmethod
    def members(cls) -> dict[str, type[Self]]:
        """Return the members of the family that derive from this class, by kind."""
        _load_extensions()
        return {kind: member for kind, member in cls._members.items() if issubclass(member, cls)}

    @classmethod
    def member(cls, kind: object, name: str | None = None) -> type[Self]:
        """Return the member of a kind.

        Args:
            kind: Which one.
            name: What the reader knows the choice by, for errors; None takes the family's own name.

        Raises:
            ValueError: There is none.
        """
        members = cls.members()
        if not isinstance(kind, str) or kind not in members:
            remedy = (
                "check its spelling; a member of another package is known once that is installed, or its module is "
            )
            raise invalid(
                name or f"{cls._root.__name__}.{cls.TAG}",
                kind,
                ", ".join(members),
                f"{remedy}named in {EXTENSIONS_VARIABLE}",
            )
        return members[kind]

    @classmethod
    def sibling(cls, kind: object) -> type["Family"]:
        """Return the member of a kind of the whole family; see `member`."""
        return cls._root.member(kind)

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        if "_root" not in cls.__dict__:
            return handler(source)

        def chosen(value: object) -> Family:
            if isinstance(value, cls):
                return value
            if not isinstance(value, dict):
                raise invalid(cls.__name__, value, f"an object with the key {cls.TAG}", "see config.json of a run")
            member = cls.member(value.get(cls.TAG))
            if unknown := sorted(set(value) - set(member.model_fields)):
                fields, name = ", ".join(member.model_fields), f"{value[cls.TAG]} ({cls.__name__})"
                raise invalid(f"unknown option of {name}", ", ".join(unknown), fields, "check its spelling")
            return member.model_validate(value)

        # what is written is what the member has, not what the root knows of it
        written = core_schema.simple_ser_schema("any")
        return core_schema.no_info_plain_validator_function(chosen, serialization=written)


def import_all(package: str, path: Iterable[str]) -> None:
    """Import every module of a package, so that the members of a family defined in them are known."""
    for module in iter_modules(path):
        import_module(f"{package}.{module.name}")


@lru_cache(maxsize=1)
def _load_extensions() -> None:
    for entry in entry_points(group=EXTENSIONS):
        entry.load()
    for name in filter(None, map(str.strip, os.environ.get(EXTENSIONS_VARIABLE, "").split(","))):
        try:
            import_module(name)
        except ModuleNotFoundError as error:
            if not f"{name}.".startswith(f"{error.name}."):  # it is there, and asks for what is not
                raise
            remedy = "put its folder on PYTHONPATH, or install it"
            raise invalid(EXTENSIONS_VARIABLE, name, "modules that Python can import", remedy) from error


def later(default: Any, **constraints: Any) -> Any:
    """Declare a field that joined its options after runs were made: at its default, JSON leaves it out.

    A run is known by the hash of its JSON; so runs keep their ids when the toolkit learns something new.

    Example:
        >>> class Sampler(Options):
        ...     nfe: int = 1
        ...     churn: float = later(0.0, ge=0)
        >>> Sampler().model_dump_json(), Sampler(churn=0.5).model_dump_json()
        ('{"nfe":1}', '{"nfe":1,"churn":0.5}')
    """
    return Field(default=default, exclude_if=lambda value: value == default, **constraints)


def _complete(value: Any) -> Any:
    if isinstance(value, Options):
        return value.complete()
    return [_complete(part) for part in value] if isinstance(value, tuple | list) else to_jsonable_python(value)


def invalid(name: str, received: object, allowed: str, remedy: str) -> ValueError:
    """Build the error for bad input: what is wrong, what came, what is allowed, what to do.

    Example:
        >>> raise invalid("gap_share", 1.5, "0 <= gap_share <= 1", "pass the share of r < t rows")
        Traceback (most recent call last):
        ...
        ValueError: gap_share: received 1.5; allowed: 0 <= gap_share <= 1; remedy: pass the share of r < t rows
    """
    shown = repr(received)
    if len(shown) > _SHOWN:
        shown = f"{shown[: _SHOWN // 2]}... ({len(shown)} characters) ...{shown[-_SHOWN // 2 :]}"
    return ValueError(f"{name}: received {shown}; allowed: {allowed}; remedy: {remedy}")


def explained_problem(
    error: ValidationError, remedy: str, source: str = "", place: Sequence[str | int] = ()
) -> ValueError:
    """Return what pydantic found, its first problem, as an error of ours.

    Args:
        error: What pydantic raised.
        remedy: What to do.
        source: The file that it comes from, if any.
        place: Where in the whole the validated part lies.
    """
    problem = error.errors()[0]
    where = (*place, *problem["loc"])
    own = problem.get("ctx", {}).get("error")
    if isinstance(own, ValidationError):  # of a member of a family
        return explained_problem(own, remedy, source, where)
    if isinstance(own, ValueError):  # a message of ours is complete already
        return ValueError(f"{source}: {own}") if source else own
    name = " of ".join(filter(None, (".".join(map(str, where)), source))) or error.title
    received, allowed = problem["input"], problem["msg"].removeprefix("Input should be ")
    match problem["type"]:
        case "missing":
            received, allowed = "nothing", "a value"
        case "extra_forbidden":
            holder = _holder(_titled(error.title), problem["loc"])
            fields = "the options of its kind" if holder is None else ", ".join(holder.model_fields)
            name, received, allowed = f"unknown option {name}", received, fields
        case "json_invalid":
            name, received, allowed = source or name, problem["msg"], "JSON"
        case _:
            allowed = allowed.split(", unable to")[0]
    return invalid(name, received, allowed, remedy)


def _titled(name: str) -> type[BaseModel] | None:
    """Return the options of a name, which nobody else has."""
    waiting: list[type[BaseModel]] = [Options]
    while waiting:
        kind = waiting.pop()
        if kind.__name__ == name:
            return kind
        waiting += kind.__subclasses__()
    return None


def _holder(kind: type[BaseModel] | None, place: Sequence[str | int]) -> type[BaseModel] | None:
    """Return the options among whose fields the last part of a place is looked for."""
    for part in place[:-1]:
        field = kind.model_fields.get(str(part)) if kind else None
        if field is None:
            return None
        kinds = (field.annotation, *get_args(field.annotation))
        kind = next((k for k in kinds if isinstance(k, type) and issubclass(k, BaseModel)), None)
    return kind


def check_edges(name: str, edges: Sequence[float]) -> None:
    """Refuse bin edges that are not at least two increasing numbers in [0, 1]."""
    increasing = all(lo < hi for lo, hi in pairwise(edges))
    if len(edges) < 2 or not increasing or edges[0] < 0 or edges[-1] > 1:
        raise invalid(name, edges, "at least two increasing numbers in [0, 1]", "for example 0 0.1 0.3 0.5 0.7 0.9 1")


def changed_values(value: Any, changes: Mapping[str, Any]) -> Any:
    """Return options as a dictionary with other values, given by dotted name.

    The rest is handed on as it is, so that it need not be validated again.
    """
    here = dict(value) if isinstance(value, Options) else {}
    for name in dict.fromkeys(key.split(".")[0] for key in changes):
        if name in changes:
            here[name] = changes[name]
        inner = {key.split(".", 1)[1]: new for key, new in changes.items() if key.startswith(f"{name}.")}
        if inner:
            part = here.get(name)
            if not isinstance(part, Options):
                raise invalid(name, part, "options with values inside", f"there is no {name}.{next(iter(inner))}")
            member = _member(part, inner)
            # another member begins at its own defaults, as on the command line
            here[name] = member.model_validate(changed_values(part if type(part) is member else None, inner))
    return here


def _member(part: Options, inner: Mapping[str, Any]) -> type[Options]:
    """Return what the changed part is: of a family, the member that the changes name."""
    if not isinstance(part, Family) or inner.get(part.TAG, getattr(part, part.TAG)) == getattr(part, part.TAG):
        return type(part)
    return part.sibling(inner[part.TAG])
