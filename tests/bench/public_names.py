"""What ``routectl.__all__`` promises: of each name its signature, fields and members, as text."""

import dataclasses
import inspect
import re

import routectl

__all__ = ["public_names"]


def _plain(text: str) -> str:
    """Without the modules where names of routectl live, and without addresses."""
    return re.sub(r" at 0x[0-9a-f]+", "", re.sub(r"\broutectl(?:\.\w+)*\.", "", text))


def _signature(thing: object) -> str:
    try:
        return _plain(str(inspect.signature(thing)))
    except (TypeError, ValueError):
        return "(...)"


def _default(field: dataclasses.Field) -> str:
    if field.default is not dataclasses.MISSING:
        return f" = {field.default!r}"
    if field.default_factory is not dataclasses.MISSING:
        return f" = {field.default_factory()!r}"
    return ""


def _class_text(kind: type) -> str:
    """Bases, fields and public members of a class."""
    lines = [f"class of {', '.join(base.__name__ for base in kind.__mro__[1:])}"]
    if dataclasses.is_dataclass(kind):
        frozen = "frozen " if kind.__dataclass_params__.frozen else ""
        lines.append(f"{frozen}dataclass")
        lines += [f"  {f.name}: {f.type}{_default(f)}" for f in dataclasses.fields(kind)]
    lines.append(f"  {_signature(kind)}")
    for name in sorted(set(dir(kind)) - set(dir(object))):
        if not name.startswith("_"):
            member = inspect.getattr_static(kind, name)
            said = _signature(getattr(kind, name)) if callable(getattr(kind, name)) else ""
            lines.append(f"  {name}: {type(member).__name__} {said}")
    return _plain("\n".join(lines))


def public_names() -> dict[str, str]:
    """Each public name with what can be said of it, and the version."""
    said = {"__version__": routectl.__version__}
    for name in routectl.__all__:
        thing = getattr(routectl, name, None)  # a name without a home is None
        said[name] = _class_text(thing) if inspect.isclass(thing) else f"def {_signature(thing)}"
    return said
