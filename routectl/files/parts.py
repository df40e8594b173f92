"""What pyarrow has no call for: S3's uploads that did not end well are aborted, never completed.

pyarrow has no abort, and completes an upload whose stream it lets go of, with what there is of it.
botocore, where it is installed, aborts: of the uploads to a key, those that came while this one
ran. Without it parts stay, unseen, until the bucket's own rule removes them.
"""

import ctypes
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import lru_cache
from typing import Any

__all__ = ["LARGEST_PUT", "abort_parts", "delete_object"]

LARGEST_PUT = (
    10 << 20
)  # bytes; of more pyarrow makes parts (s3fs.cc, kMultiPartUploadThresholdSize)

_Keep = Callable[[Any], Any]


@contextmanager
def abort_parts(endpoint: str | None, region: str | None, path: str | None) -> Iterator[_Keep]:
    """Give a function that is handed the stream of an upload; where the block fails, abort it.

    ``path`` is ``bucket/key`` of S3 where parts will be made, None for what has none.
    """
    kept: list[Any] = []
    bucket, _, key = (path or "").partition("/")
    client = _client(endpoint, region) if path else None
    before = _uploads(client, bucket, key)

    def keep(stream: Any) -> Any:
        kept.append(stream)
        return stream

    try:
        yield keep
    except BaseException:
        aborted = before is not None and _abort(client, bucket, key, before)
        for stream in kept:
            if aborted:
                with suppress(OSError, ValueError):
                    stream.close()  # of an aborted upload: it completes nothing
            else:
                _never_end(stream)
        raise


def delete_object(endpoint: str | None, region: str | None, path: str) -> bool:
    """Remove ``bucket/key`` and leave nothing; False where botocore cannot do it."""
    client = _client(endpoint, region)
    if client is None:
        return False
    from botocore.exceptions import BotoCoreError, ClientError

    bucket, _, key = path.partition("/")
    with suppress(BotoCoreError, ClientError):
        client.delete_object(Bucket=bucket, Key=key)
        return True
    return False


def _never_end(stream: Any) -> None:
    """Keep a stream beyond the end of Python, which would close it: ended, by whatever way, it
    completes what is half there. What is under way is waited for: Azure's crashes Python's end.
    """
    with suppress(OSError, ValueError):
        stream.flush()
    ctypes.pythonapi.Py_IncRef(ctypes.py_object(stream))


def _abort(client: Any, bucket: str, key: str, before: set[str]) -> bool:
    """Abort the uploads to a key that were not there before; whether there were any."""
    from botocore.exceptions import BotoCoreError, ClientError

    ours = (_uploads(client, bucket, key) or set()) - before
    with suppress(BotoCoreError, ClientError):
        for one in ours:
            client.abort_multipart_upload(Bucket=bucket, Key=key, UploadId=one)
        return bool(ours)
    return False


@lru_cache(8)
def _client(endpoint: str | None, region: str | None) -> Any:
    """botocore's client, which finds credentials itself; None where it is not installed."""
    try:
        from botocore.exceptions import BotoCoreError
        from botocore.session import get_session
    except ImportError:
        return None
    with suppress(BotoCoreError, ValueError):  # whatever it lacks, an upload goes on without it
        return get_session().create_client("s3", region_name=region, endpoint_url=endpoint)
    return None


def _uploads(client: Any, bucket: str, key: str) -> set[str] | None:
    """The uploads to a key that are under way; None where that cannot be asked."""
    if client is None:
        return None
    from botocore.exceptions import BotoCoreError, ClientError

    with suppress(BotoCoreError, ClientError):
        found = client.list_multipart_uploads(Bucket=bucket, Prefix=key)
        return {one["UploadId"] for one in found.get("Uploads", ()) if one["Key"] == key}
    return None
