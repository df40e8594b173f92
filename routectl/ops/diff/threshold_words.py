"""What is said of a threshold that cannot be read: the nearest metric, and the form."""

import re
from collections.abc import Callable, Iterable
from difflib import get_close_matches

from ...errors import RoutectlError, misspelt

__all__ = ["unknown_metric", "wrong_form"]

_BEGIN = re.compile(r"\s*(?P<name>[A-Za-z_][\w.-]*)")
_END = re.compile(r"[-+]?\d+(\.\d*)?(e[-+]?\d+)?%?(?=\s*$)", re.IGNORECASE)
_MEANT = {"kl": "k3", "kl_divergence": "k3", "kl_div": "k3", "js": "load_js"}  # by other names
Parse = Callable[[str], object]


def _nearest(name: str, known: Iterable[str]) -> str | None:
    """The known metric that is meant, or has nearly that name."""
    names = tuple(known)
    plain = name.lower().replace("-", "_")
    meant = _MEANT.get(plain, plain)
    return meant if meant in names else next(iter(get_close_matches(plain, names, 1)), None)


def _example(text: str, name: str, known: Iterable[str], parse: Parse) -> str | None:
    """A threshold that ``text`` was perhaps to be, of all layers, and that can be read; or None.

    name is what it calls its metric. It has the form METRIC:N[%], so that reading it ends here.
    """
    near, end = _nearest(name, known), _END.search(text)
    if near is None:
        return None
    for number in ([] if end is None else [end[0], end[0].removesuffix("%")]) + ["1%", "0.1"]:
        example = f"{near}:{number}"
        try:
            parse(example)
        except RoutectlError:
            continue
        return example
    return None


def unknown_metric(
    text: str, name: str, known: Iterable[str], parse: Parse, form: tuple[str, str]
) -> RoutectlError:
    """The error for a threshold of no known metric; form is METRIC..., and an example of it."""
    names = tuple(known)
    near = _nearest(name, names)
    error = misspelt(f"metric {name!r} is not known", near or name, names, RoutectlError)
    told = f"{form[0]}, for example {_example(text, name, names, parse) or form[1]}"
    error.hint = told if error.hint is None else f"{error.hint}; {told}"
    return error


def wrong_form(
    text: str, known: Iterable[str], parse: Parse, form: tuple[str, str]
) -> RoutectlError:
    """The error for a threshold of another form than METRIC...; see ``unknown_metric``."""
    names = tuple(known)
    begin = _BEGIN.match(text)
    example = None if begin is None else _example(text, begin["name"], names, parse)
    told = f"threshold {text!r}: expected {form[0]}, for example {example or form[1]}"
    unlisted = begin is None or begin["name"] in names
    return RoutectlError(told, hint=None if unlisted else f"known: {', '.join(names)}")
