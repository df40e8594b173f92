"""Row groups written apart and put together: the bytes of one writer."""

from io import BytesIO

import numpy as np
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from routectl.dump import DumpMeta, Sample
from routectl.formats.native import row_groups
from routectl.formats.native.container import stream_native
from routectl.formats.native.encoder import Coding
from routectl.formats.native.row_groups import group_runs, grouped, native_form, write_encoded
from support.native_files import metas, samples


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=20)
@given(data=st.data(), codec=st.sampled_from(["plain", "packed", "set", "context"]))
def test_row_groups_apart_are_a_file(data, codec, monkeypatch) -> None:
    """Whatever the samples and the codec, the file is that of one writer, byte for byte."""
    monkeypatch.setattr(row_groups, "_GROUP_ROWS", 2)
    meta = data.draw(metas())
    some = data.draw(st.lists(samples(meta), max_size=7))
    coding = None if codec == "plain" else Coding(codec)
    whole, parts = BytesIO(), BytesIO()
    stream_native(some, meta, whole, coding)
    form = native_form(meta, coding)
    groups = list(grouped(some, form.group_bytes))
    assert write_encoded((form.encoded(group) for group in groups), form, parts) == len(some)
    assert parts.getvalue() == whole.getvalue()
    rows_B = np.array([0 if s.routes is None else s.routes.num_tokens for s in some], np.int64)
    assert list(map(len, group_runs(rows_B, form))) == list(map(len, groups))


def test_many_row_groups(monkeypatch) -> None:
    """Ordinals and lengths of lists that take several bytes are those of one writer."""
    monkeypatch.setattr(row_groups, "_GROUP_ROWS", 1)
    meta = DumpMeta("made", "made", (0,), 4, 1)
    some = [Sample(None, str(i)) for i in range(300)]
    whole, parts = BytesIO(), BytesIO()
    stream_native(some, meta, whole)
    form = native_form(meta, None)
    write_encoded((form.encoded([one]) for one in some), form, parts)
    assert parts.getvalue() == whole.getvalue()
