"""A tokenizer.json, to show the text of tokens; the library is an extra."""

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from ..errors import FormatError, UnsupportedError
from ..files.reading import read_bytes
from .documents.size import check_json

if TYPE_CHECKING:
    from tokenizers import Tokenizer

__all__ = ["open_tokenizer"]

_MAX_BYTES = 64 << 20  # the largest that are known, of 262,144 tokens, are 33 MB
_MAX_PIECES = 4_000_000  # characters in a Unigram's vocabulary: a trie takes 280 bytes of each
_LONGEST = 8  # tokens that one character may be made of


def open_tokenizer(path: Path) -> Callable[[Sequence[int]], list[str]]:
    """A function from token ids to their texts, one each, which joined are the text of all.

    ``path`` is a tokenizer.json or a folder with one. A token that ends within a character has the
    text "", and the one that completes it the whole; an id that is not in the vocabulary has its
    number. Nothing is fetched. Raises FormatError where the file is none, UnsupportedError without
    the library.
    """
    try:
        from tokenizers import Tokenizer
    except ImportError:
        raise UnsupportedError(
            "--tokenizer needs the tokenizers library", hint="pip install tokenizers"
        ) from None
    file = path / "tokenizer.json" if path.is_dir() else path
    text = read_bytes(file, _MAX_BYTES, "too large for a tokenizer.json")
    check_json(text, str(file))
    _check_pieces(text, file)
    try:
        tokenizer = Tokenizer.from_str(text.decode())
    except UnicodeDecodeError:
        raise FormatError(f"{file}: not a tokenizer.json: it is not text") from None
    except Exception as error:  # noqa: BLE001 - the library raises no narrower class
        raise FormatError(f"{file}: not a tokenizer.json: {str(error)[:200]}") from None
    return partial(_texts, tokenizer)


class _Model(msgspec.Struct):
    """The vocabulary: a list of [piece, score] of a Unigram, else an object."""

    vocab: msgspec.Raw = msgspec.Raw(b"{}")


class _Document(msgspec.Struct):
    model: _Model


def _check_pieces(text: bytes, file: Path) -> None:
    """Raise FormatError where a Unigram's vocabulary would take gigabytes."""
    try:
        vocab = bytes(msgspec.json.decode(text, type=_Document).model.vocab)
        if not vocab.startswith(b"["):
            return
        pieces = msgspec.json.decode(vocab, type=list[tuple[str, float]])
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return  # the library says what is wrong
    characters = sum(len(piece) for piece, _ in pieces)
    if characters > _MAX_PIECES:
        raise FormatError(
            f"{file}: {characters} characters in its pieces, expected at most {_MAX_PIECES}"
        )


def _texts(tokenizer: "Tokenizer", ids: Sequence[int]) -> list[str]:
    """The text that each token adds to those before it.

    As inference servers stream text (text-generation-inference, vLLM): what is decoded begins one
    complete piece back, since some tokenizers drop a space at the beginning.
    """
    texts: list[str] = []
    begin = complete = 0
    for end, token in enumerate(ids, start=1):
        if token < 0 or tokenizer.id_to_token(token) is None:
            texts.append(f"⟨{token}⟩")
            begin = complete = end
            continue
        before = tokenizer.decode(ids[begin:complete], skip_special_tokens=False)
        text = tokenizer.decode(ids[begin:end], skip_special_tokens=False)
        if text.endswith("\ufffd") and end - complete < _LONGEST:
            texts.append("")
            continue
        texts.append(text[len(before) :])
        begin, complete = complete, end
    return texts
