"""What an answer that is none says, in one line, and what to do about it.

Source: SGLang 0.5.23, entrypoints/http_server.py and utils/auth.py; vLLM 0.32.0, entrypoints/serve
and entrypoints/openai/engine/protocol.py.
"""

import email.utils
import html
import json
import re
import time
from typing import Any
from urllib.parse import urljoin

from ..errors import RoutectlError
from ..visible import visible
from .http import PassingError, RefusedError, Reply

__all__ = ["body_or_raise", "is_page", "page_text", "said_in", "said_of"]

_AWAY = (408, 425, 429, 502, 503, 504)  # busy, or starting: the same request may be taken later
_MOST = 300  # characters of what a server says
_PAGE = 1 << 14  # bytes of a page that are looked at: what it says stands at its beginning
_LONGEST = 1 << 20  # bytes of JSON in which a message is looked for
_NAMES = ("error", "message", "detail", "errors", "msg", "title")
_HIDDEN = re.compile(r"<(script|style|title)\b.*?</\1\s*>|<!--.*?-->", re.S | re.I)
_FRAMES = re.compile(r'\n[ \t]*File "[^"\n]*", line \d+, in .*(\n[ \t]+.*)*')
_TITLE = re.compile(r"<title[^>]*>(.*?)</title", re.S | re.I)


def is_page(body: bytes) -> bool:
    """Whether a body begins as HTML or XML does."""
    return body.lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"<")


def page_text(body: bytes) -> str:
    """What a page of HTML says: its title and its text, without tags."""
    text = body[:_PAGE].decode("utf-8", "replace")
    title = "".join(_TITLE.findall(text)[:1])
    return _brief(html.unescape(f"{title} {re.sub('<[^>]*>', ' ', _HIDDEN.sub(' ', text))}"))


def _brief(text: str) -> str:
    """A text in one visible line; of a long one its beginning and its end."""
    return visible(" ".join(text.split()), _MOST, end=_MOST // 2)


def _why(text: str) -> str:
    """The line of a message that says why: the last one of a Python traceback, else all of it."""
    if "Traceback (most recent call last)" not in text:
        return _brief(_FRAMES.sub("", text))
    said = [line for line in text.splitlines() if line.strip() and not line[0].isspace()]
    return _brief(said[-1] if said else text)


def _message(doc: Any, depth: int = 0) -> str | None:
    """The message in an error document; None where none of its keys holds one.

    ``detail`` of FastAPI is a list of {"loc": [...], "msg": ...}.
    """
    if isinstance(doc, str):
        return doc or None
    if depth > 4:
        return None
    if isinstance(doc, list):
        parts = [part for item in doc[:3] if (part := _message(item, depth + 1))]
        return "; ".join(parts) or None
    if not isinstance(doc, dict):
        return None
    found = next((m for name in _NAMES if (m := _message(doc.get(name), depth + 1))), None)
    place = doc.get("loc")
    if found and isinstance(place, list):
        return f"{'.'.join(map(str, place))}: {found}"
    return found


def said_of(document: Any) -> str:
    """What an error document says, in one line."""
    return _why(_message(document) or json.dumps(document, ensure_ascii=False))


def said_in(body: bytes) -> str:
    """What an error answer says, in one line: its message, else its text."""
    if is_page(body):
        return f"a page: {page_text(body)}"
    try:
        doc = json.loads(body if len(body) <= _LONGEST else b"")
    except (ValueError, RecursionError):
        return _why(body[-(1 << 16) :].decode("utf-8", "replace")) or "nothing"
    return said_of(doc)


def _asked_s(reply: Reply) -> float | None:
    """Seconds of a Retry-After header, given as a number or as a date; None without one."""
    text = reply.headers.get("Retry-After", "").strip()
    if text.isdecimal():
        return float(text)
    try:
        return max(0.0, email.utils.parsedate_to_datetime(text).timestamp() - time.time())
    except (ValueError, OverflowError):
        return None


def _hint(status: int, said: str, with_key: bool) -> str | None:
    """What to do about a refusal; None where its own words must do."""
    words = said.lower()
    if "scale-out" in words or "scale_out" in words:
        return "--endpoint completions needs no such flag"
    if "admin" in words:
        return "samples need no admin key: is URL the server's address alone? else --api-key-file"
    if status in (401, 403):
        return "is the key in --api-key-file the server's?" if with_key else "--api-key-file FILE"
    if status == 404 and "model" in words:
        return "--request model=NAME, as the server lists it in /v1/models"
    if status in (404, 405):
        return "--endpoint generate is SGLang's, inference vLLM's; completions and chat are both's"
    return None


def _redirected(reply: Reply, url: str, where: str) -> RoutectlError:
    target = reply.headers.get("Location")
    if target is None:
        return RoutectlError(f"{where}: {reply.status}: redirected, it does not say where to")
    try:
        full = urljoin(url, target.strip())
    except ValueError:
        full = target
    if full == url:
        return RoutectlError(f"{where}: {reply.status}: redirected to itself, for ever")
    return RoutectlError(
        f"{where}: {reply.status}: redirected to {_brief(full)}", hint="name that address"
    )


def body_or_raise(reply: Reply, where: str, *, url: str = "", with_key: bool = False) -> bytes:
    """The body of an answer that is one; ``url`` is what was asked, ``with_key`` if with a key.

    Raises PassingError for 408, 425, 429 and 5xx, RefusedError for other 4xx, RoutectlError for
    the rest.
    """
    status = reply.status
    if 200 <= status < 300:
        return reply.body
    if 300 <= status < 400:
        raise _redirected(reply, url, where)
    said = said_in(reply.body)
    if status in _AWAY or status >= 500:
        raise PassingError(f"{where}: {status}: {said}", _asked_s(reply), away=status in _AWAY)
    if status >= 400:
        raise RefusedError(f"{where}: {status}: {said}", status, hint=_hint(status, said, with_key))
    raise RoutectlError(f"{where}: {status}: no status of HTTP that ends an answer")
