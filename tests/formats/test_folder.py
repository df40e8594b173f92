"""Folders, globs and what is found beside a dump: which files are samples, and of which model."""

import json
import os
import shutil
from dataclasses import replace

import numpy as np
import pytest

from routectl.dump import DumpMeta
from routectl.errors import FormatError, MismatchError, UnsupportedError
from routectl.formats import FORMATS, open_dump
from routectl.formats.native.container import write_native
from support.building import (
    CONFIG,
    FACTS,
    as_npy,
    check_line,
    record,
    some_ids,
    write_json,
    write_lines,
)
from support.recordings import FIXTURES, QWEN, SGLANG, VLLM, request_of, response_of


def test_a_folder_of_traffic_is_one_dump():
    """A recorded server's folder is one dump: responses in the order of their names, in full."""
    for folder, samples, skipped in ((VLLM, 28, 10), (SGLANG, 32, 4)):
        dump = open_dump(folder, model=QWEN)
        assert len(dump) == samples
        assert len(list(dump)) == samples
        assert len(dump.meta.skipped) == skipped
        assert dump.meta.path == str(folder)
        assert dump.meta.engine == folder.parent.name.split("-")[0]
        first = response_of(folder, "chat")["id"]
        assert dump[0].sample_id == f"{first}/0"
        names = [line.split(":")[0] for line in dump.meta.skipped]
        assert sorted(names) == names
        assert f"{folder / 'index.json'}" in names
        assert not [name for name in names if ".request." in name]


def test_a_glob_takes_what_it_names():
    """A glob is a dump of the files that it matches, and one that matches nothing is refused."""
    dump = open_dump(str(VLLM / "completion_ids*.response.json"), model=QWEN)
    assert len(dump) == 1 + 4 + 4
    assert dump.meta.format == "json, 3 files"
    size = sum(p.stat().st_size for p in VLLM.glob("completion_ids*.response.json"))
    assert dump.meta.file_bytes == size
    nothing = str(VLLM / "nothing*.json")
    with pytest.raises(FormatError, match="no dump here: got no files") as caught:
        open_dump(nothing, model=QWEN)
    check_line(caught.value, nothing)


def test_formats_mix_in_a_folder(tmp_path):
    """Text, arrays and native files of one model are one dump, each read its own way."""
    ids = some_ids(5).astype(np.uint8)
    write_lines(tmp_path / "a.jsonl", [record(ids), record(ids)])
    np.save(tmp_path / "b.npy", ids)
    np.savez(tmp_path / "c.npz", **{"s.routed_experts": ids})
    source = open_dump(tmp_path / "a.jsonl")
    write_native(source, source.meta, tmp_path / "d.parquet", force=False)
    dump = open_dump(tmp_path)
    assert dump.meta.format == "jsonl+native+npy+npz, 4 files"
    assert [sample.sample_id for sample in dump] == [None, None, "b", "s", None, None]
    for sample in dump:
        np.testing.assert_array_equal(sample.routes.ids_TLK, ids)
    assert [line.split(": ")[0] for line in dump.meta.skipped] == [str(tmp_path / "config.json")]


@pytest.mark.parametrize(
    ("change", "line"),
    [
        ({"num_experts": 9}, "num_experts is 8 in .*a.npz and 9 in .*b.npz"),
        ({"num_hidden_layers": 4}, r"layers_L is \(0, 1, 2\) in .*a.npz and \(0, 1, 2, 3\)"),
        ({"num_experts_per_tok": 3}, "top_k is 2 in .*a.npz and 3 in .*b.npz"),
    ],
)
def test_files_of_different_models_are_refused(tmp_path, change, line):
    """A folder with files of two models is no dump: the message names both files."""
    for name, config in (("a", CONFIG), ("b", {**CONFIG, **change})):
        arrays = {"s.routed_experts": some_ids(3), "config": np.array(json.dumps(config))}
        np.savez(tmp_path / f"{name}.npz", **arrays)
    with pytest.raises(MismatchError, match=line) as caught:
        open_dump(tmp_path)
    check_line(caught.value, tmp_path)


@pytest.mark.parametrize(
    ("files", "line"),
    [
        ({}, "no dump here: got no files"),
        ({".hidden.json": "{}", "x.request.json": "{}"}, "no dump here: got 2 files"),
        ({"notes.txt": "hello"}, "no file holds samples, of 1; .*notes.txt: not a dump"),
        ({"config.json": json.dumps(CONFIG)}, "no file holds samples, of 1; .*config.json: JSON"),
        (
            {"a.json": '{"error": {"message": "no\\u001b[2J\\nway"}}'},
            r"an error response: no\\x1b\[2J$",
        ),
        ({"a.json": '{"error": "\\n"}'}, "an error response: $"),
        ({"a.json": "[]"}, "no file holds samples, of 1"),
    ],
)
def test_a_folder_without_dumps_is_refused(tmp_path, files, line):
    """A folder that holds no samples is refused, and the first reason is told."""
    for name, text in files.items():
        (tmp_path / name).write_text(text, "utf-8")
    with pytest.raises(FormatError, match=line) as caught:
        open_dump(tmp_path)
    check_line(caught.value, tmp_path)


def test_a_glob_of_nothing_has_no_hint_to_be_a_glob(tmp_path):
    """What names no file is no folder whose subfolders were passed over."""
    with pytest.raises(FormatError, match="no dump here: got no files") as caught:
        open_dump(tmp_path / "*.jsonl")
    assert caught.value.hint is None


def test_one_damaged_file_refuses_the_folder(tmp_path):
    """A file of a folder that is a dump, but damaged, is an error, not left out."""
    write_lines(tmp_path / "a.jsonl", [record(some_ids(5))])
    bad = tmp_path / "b.json"
    bad.write_text('{"choices": [', "utf-8")
    with pytest.raises(FormatError, match="not JSON, or cut short") as caught:
        open_dump(tmp_path)
    check_line(caught.value, bad)


def test_a_failed_item_among_responses_is_refused(tmp_path):
    """A list of pairs in which one response is an error is refused, in a folder too."""
    pair = {"request": request_of(SGLANG, "generate_ids")}
    pairs = [
        {**pair, "response": response_of(SGLANG, n)}
        for n in ("generate_ids", "generate_start_too_far")
    ]
    path = write_json(tmp_path / "pairs.json", pairs, config=None)
    for place in (path, tmp_path):
        with pytest.raises(FormatError, match="item 1: an error response: recv_req") as caught:
            open_dump(place, model=QWEN)
        check_line(caught.value, path)


def test_failed_lines_of_a_jsonl_are_named(tmp_path):
    """Error responses among the lines of a JSONL file are left out and named in ``skipped``."""
    lines = [record(some_ids(5)), {"error": {"message": "overloaded"}}, record(some_ids(5))]
    dump = open_dump(write_lines(tmp_path / "x.jsonl", lines))
    assert len(dump) == 2
    assert dump.meta.skipped == (f"{tmp_path}/x.jsonl: line 2: an error response: overloaded",)


@pytest.mark.parametrize("suffix", ["json", "jsonl", "npy", "npz", "safetensors", "parquet", "sse"])
@pytest.mark.parametrize("content", [b"", b"hello\n", b"\0" * 40])
def test_a_name_does_not_make_a_dump(tmp_path, suffix, content):
    """Empty files, prose and zeros are refused in one line, whatever they are named."""
    path = tmp_path / f"x.{suffix}"
    path.write_bytes(content)
    with pytest.raises(
        FormatError, match=rf"not a dump|the name says \.{suffix}, the content"
    ) as caught:
        open_dump(path, model=FACTS)
    check_line(caught.value, path)
    assert bool(content) != ("an empty file" in str(caught.value))


@pytest.mark.parametrize("form", FORMATS)
def test_a_forced_format_is_checked(tmp_path, form):
    """A format is obeyed: bytes that are not that format are refused, not sniffed again."""
    path = tmp_path / "x.bin"
    path.write_bytes(b"\x93NUMPX hello {\n" if form != "native" else b"[]")
    with pytest.raises(FormatError) as caught:
        open_dump(path, model=FACTS, format=form)
    check_line(caught.value, path)


def test_an_unknown_format_is_answered_with_the_list(tmp_path):
    """An unknown format is refused with the known ones."""
    with pytest.raises(UnsupportedError, match="'yaml' is not known: json, jsonl, sse, npy, npz"):
        open_dump(tmp_path / "x", format="yaml")


def test_content_goes_before_the_name(tmp_path):
    """A file without a telling name is opened by its content."""
    ids = some_ids(5).astype(np.uint8)
    np.save(tmp_path / "x.npy", ids)
    (tmp_path / "x.npy").rename(tmp_path / "routes")
    assert open_dump(tmp_path / "routes", model=FACTS).meta.format == "npy"
    shutil.copy(VLLM / "chat.response.json", tmp_path / "y.txt")
    assert open_dump(tmp_path / "y.txt", model=QWEN).meta.format == "json"


@pytest.mark.parametrize("name", ["missing.json", "y" * 300, "file.json/inside.json"])
def test_a_path_that_is_not_there_is_named(tmp_path, name):
    """A missing file, an impossible name and a path through a file are refused in one line."""
    (tmp_path / "file.json").write_text("{}", "utf-8")
    with pytest.raises(FormatError, match="cannot be read: ") as caught:
        open_dump(tmp_path / name, model=FACTS)
    check_line(caught.value, tmp_path / name)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
@pytest.mark.parametrize("which", ["file", "folder"])
def test_an_unreadable_place_is_refused(tmp_path, which):
    """A file or folder without permission is refused in one line."""
    folder = tmp_path / "dumps"
    folder.mkdir()
    path = write_lines(folder / "x.jsonl", [record(some_ids(5))])
    (path if which == "file" else folder).chmod(0)
    try:
        for place in (path, folder):
            with pytest.raises(FormatError, match="cannot be read: Permission denied"):
                open_dump(place, model=FACTS)
    finally:
        folder.chmod(0o700)


@pytest.mark.parametrize("name", ["x.npy", "x.jsonl"])
def test_without_a_config_the_model_is_asked_for(tmp_path, name):
    """A dump without a config in it or beside it is refused with a hint that names --model."""
    path = tmp_path / name
    if name.endswith("npy"):
        np.save(path, some_ids(5))
    else:
        write_lines(path, [record(some_ids(5))])
        (tmp_path / "config.json").unlink()
    with pytest.raises(FormatError, match="the model is not known") as caught:
        open_dump(path)
    check_line(caught.value, path)
    assert "--model" in caught.value.hint


@pytest.mark.parametrize("beside", ["meta.json", "config.json"])
@pytest.mark.parametrize("text", ["{", "[]", '{"hf_config": {"num_experts": "x"}}', '{"a": 1}'])
def test_a_given_model_overrules_the_folder(tmp_path, beside, text):
    """Foreign JSON beside a dump is refused when it is needed, and in nobody's way otherwise."""
    path = write_lines(tmp_path / "x.jsonl", [record(some_ids(5))])
    (tmp_path / "config.json").unlink()
    (tmp_path / beside).write_text(text, "utf-8")
    for model in (FACTS, FIXTURES / "configs" / "qwen3_moe.json"):
        assert open_dump(path, model=model).meta.facts_source in ("the caller", str(model))
    with pytest.raises(FormatError):
        open_dump(path)


def test_facts_come_from_the_nearest_place(tmp_path):
    """meta.json's hf_config goes before config.json; both name their engine and their source."""
    path = write_lines(tmp_path / "x.jsonl", [record(some_ids(5))])
    assert open_dump(path).meta.facts_source == str(tmp_path / "config.json")
    notes = {"engine": "vllm", "engine_version": "9", "hf_config": CONFIG | {"num_experts": 9}}
    (tmp_path / "meta.json").write_text(json.dumps(notes), "utf-8")
    meta = open_dump(path).meta
    assert (meta.num_experts, meta.facts_source) == (9, str(tmp_path / "meta.json"))
    assert (meta.engine, meta.engine_version, meta.model) == ("vllm", "9", "tiny")
    assert open_dump(path, model=tmp_path).meta.num_experts == 8


def test_a_request_beside_a_response_gives_its_start(tmp_path):
    """The same response has another start, or none that is known, with another request."""
    document = {"choices": [{"index": 0, "routed_experts": as_npy(some_ids(4))}]}
    path = write_json(tmp_path / "x.response.json", document, request={"sampling_params": [{}, {}]})
    assert open_dump(path)[0].routes.start == 0
    (tmp_path / "x.request.json").write_text('{"routed_experts_start_len": 7}', "utf-8")
    assert open_dump(path)[0].routes.start == 7
    (tmp_path / "x.request.json").unlink()
    with pytest.raises(FormatError, match="neither the token counts nor the start are known"):
        open_dump(path)[0]


def test_a_folder_says_what_all_of_its_files_say(tmp_path):
    """One slot order is kept, margins are told when a part has some, makings are joined."""
    meta = DumpMeta("", "", (0, 1, 2), 8, 2)
    score = {"order": "score", "provenance": {"device": "cpu"}}
    for name, about in (("a", score), ("b", score)):
        write_native([], replace(meta, **about), tmp_path / f"{name}.parquet", force=False)
    merged = open_dump(tmp_path).meta
    assert (merged.order, merged.margins, merged.provenance) == ("score", False, {"device": "cpu"})
    other = {
        "margins": True,
        "group_margins": True,
        "provenance": {"device": "cuda", "dtype": "bfloat16"},
    }
    write_native([], replace(meta, **other), tmp_path / "c.parquet", force=False)
    merged = open_dump(tmp_path).meta
    assert (merged.order, merged.margins, merged.group_margins) == ("unknown", True, True)
    assert merged.provenance == {"device": "cpu+cuda", "dtype": "bfloat16"}


def test_an_empty_native_file_is_a_dump_of_nothing(tmp_path):
    """A native file of no samples opens, and adds nothing to its folder."""
    write_native([], DumpMeta("", "", (0, 1, 2), 8, 2), tmp_path / "a.parquet", force=False)
    assert len(open_dump(tmp_path / "a.parquet")) == 0
    write_lines(tmp_path / "b.jsonl", [record(some_ids(5))] * 2)
    assert len(open_dump(tmp_path)) == 2
