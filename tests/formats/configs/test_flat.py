"""Configs of every form as one flat table, and what is none."""

import sys

import pytest

from routectl.errors import FormatError, UnsupportedError, extra_hint
from routectl.formats.configs.flat import read_flat
from routectl.formats.configs.script import script_settings
from support.recordings import FIXTURES

CONFIGS = FIXTURES / "trainer_configs"


def test_tables_are_named_by_their_path(tmp_path):
    """A key of a table within a table has both names, with a dot; lists are values."""
    wanted = {"a": 1, "b.c": [1, 2], "b.d.e": None, "b.f": "x"}
    (tmp_path / "x.yaml").write_text("a: 1\nb:\n  c: [1, 2]\n  d: {e: null}\n  f: x\n", "utf-8")
    (tmp_path / "x.json").write_text('{"a":1,"b":{"c":[1,2],"d":{"e":null},"f":"x"}}', "utf-8")
    assert read_flat(tmp_path / "x.yaml") == read_flat(tmp_path / "x.json") == wanted
    (tmp_path / "x.toml").write_text('a = 1\n[b]\nc = [1, 2]\nf = "x"\n', "utf-8")
    assert read_flat(tmp_path / "x.toml") == {n: v for n, v in wanted.items() if n != "b.d.e"}


def test_overrides_are_a_table(tmp_path):
    """A list of hydra's overrides is the table that they make; + and ++ add a key."""
    (tmp_path / "overrides.yaml").write_text("- a.b=1\n- +c.d=true\n- ++c.e=null\n- f.g=x y\n")
    assert read_flat(tmp_path / "overrides.yaml") == {
        "a.b": 1,
        "c.d": True,
        "c.e": None,
        "f.g": "x",
    }


SCRIPT = r"""
A=2
export B=${A}
C=${C:-7}
ARGS=( --one $A --two-words ${B} --flag
  #--gone 1
  --three='x y' --not-set $MISSING --fallback "${MISSING:-5}" # --comment 1
)
ARGS+=(--last "4")
python train.py --own=3 \
  --own 9 a.b.c=${C} "${ARGS[@]}" 'it'"'"'s' --cut "not
closed --within 1"
"""


def test_words_of_a_script():
    """Options of arrays and of the call, the later of a name; comments and variables of none."""
    assert script_settings(SCRIPT) == {
        "one": 2,
        "two_words": 2,
        "flag": True,
        "three": "x y",
        "not_set": "$MISSING",
        "fallback": 5,
        "last": 4,
        "own": 9,
        "a.b.c": 7,
        "cut": '"not',
        "within": '1"',
    }


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("x.yaml", "a: [1", "not YAML of a config"),
        ("x.yaml", "a: !!python/object:os.system x", "not YAML of a config"),
        ("x.yaml", "[" * 3000, "not YAML of a config"),
        ("x.yaml", "- 1\n- 2\n", "got list, expected a table"),
        ("x.yaml", "7\n", "got int, expected a table"),
        ("x.json", "{", "not JSON of a config"),
        ("x.toml", "a = ", "not TOML of a config"),
        ("x.json", '{"a":' * 100 + "1" + "}" * 100, "tables too deep"),
    ],
)
def test_refused(tmp_path, name, text, said):
    """What is no table of settings is refused in one line with the path."""
    (tmp_path / name).write_text(text, "utf-8")
    with pytest.raises(FormatError, match=rf"^{tmp_path}/{name}: ") as error:
        read_flat(tmp_path / name)
    assert said in str(error.value)
    assert "\n" not in str(error.value)


def test_aliases_that_name_each_other(tmp_path):
    """Tables that are nine of the one before, thirty times, are refused at once."""
    lines = ["a0: &a0 {x: 1}"]
    for i in range(1, 30):
        inner = ", ".join(f"k{j}: *a{i - 1}" for j in range(9))
        lines.append(f"a{i}: &a{i} {{{inner}}}")
    (tmp_path / "x.yaml").write_text("\n".join(lines), "utf-8")
    with pytest.raises(FormatError, match="more than 100000 settings"):
        read_flat(tmp_path / "x.yaml")


def test_without_pyyaml(monkeypatch):
    """YAML where PyYAML is not installed is refused with the way to it."""
    monkeypatch.setitem(sys.modules, "yaml", None)
    with pytest.raises(UnsupportedError, match="needs PyYAML") as error:
        read_flat(CONFIGS / "verl.yaml")
    assert error.value.hint == extra_hint("trainers")
