"""YAML as recipes need it: numbers as people write them, a key once, and nothing that can hurt."""

import math

import pytest

from dalib.errors import RecipeError
from dalib.yaml import MAX_BYTES, MAX_DEPTH, dump_yaml, parse_yaml, read_yaml


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-4", 1e-4),
        ("1E5", 1e5),
        ("2.5e-4", 2.5e-4),
        ("-1.e+3", -1000.0),
        (".5", 0.5),
        ("-3", -3),
        ("0.1", 0.1),
        ("e5", "e5"),
        ("1e", "1e"),
        ("'1e-4'", "1e-4"),
        ("yes", True),
        ("null", None),
        ("2024-01-02x", "2024-01-02x"),
    ],
)
def test_a_scalar_is_what_it_looks_like(text, value):
    parsed = parse_yaml(text)
    assert parsed == value and type(parsed) is type(value)


def test_infinity_is_read_as_such_for_the_recipe_to_refuse():
    assert parse_yaml("-.inf") == -math.inf and math.isnan(parse_yaml(".nan"))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: 1\nb: 2\na: 3", "line 3: the key 'a' stands twice; it stands first on line 1."),
        ("x: {a: 1, a: 2}", "the key 'a' stands twice"),
        ("x: &x {b: {c: 1, c: 2}}", "the key 'c' stands twice"),
        ("1.5: x", "a key must be text, got 1.5."),
        ("[1, 2", "not YAML on line 1"),
        ("a: b: c", "not YAML on line 1: mapping values are not allowed here."),
        ("a: 1\n---\nb: 2", "not YAML on line 2: but found another document."),
        ("a: \x00", "not YAML"),
        ("a: *nobody", "not YAML on line 1: found undefined alias 'nobody'."),
        ("!!python/object/apply:os.system ['true']", "could not determine a constructor"),
        ("a: !!bool maybe", "not YAML: KeyError: 'maybe'."),
        ("a: !!timestamp now", "not YAML: AttributeError"),
        ("a: !!int ''", "not YAML: IndexError"),
        ("a: !!set [b]", "not YAML: TypeError"),
        ("a: 1\nb: 0x" + "9" * 5000, "line 2: a whole number has at most 64 bits."),
        ("[" * (MAX_DEPTH + 1), f"nested deeper than {MAX_DEPTH} levels on line 1."),
        ("a: " + "[" * 100_000, f"nested deeper than {MAX_DEPTH} levels"),
        ("a" * (MAX_BYTES + 1), "1,000,001 characters long; a recipe has at most 1,000,000."),
    ],
)
def test_a_text_that_is_none_is_refused_with_its_name_and_line(text, message):
    with pytest.raises(RecipeError) as caught:
        parse_yaml(text, "some.yaml")
    assert str(caught.value).startswith("some.yaml: ") and message in str(caught.value)


def test_aliases_that_explode_are_refused_before_they_unfold():
    lines = ["a0: &a0 [1, 2, 3, 4, 5, 6, 7, 8, 9]"]
    lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" for i in range(1, 30)]
    with pytest.raises(RecipeError, match="its aliases unfold to more than 100,000 values"):
        parse_yaml("\n".join(lines))


def test_a_long_list_is_refused_where_it_gets_too_long(monkeypatch):
    monkeypatch.setattr("dalib.yaml.MAX_NODES", 100)
    with pytest.raises(RecipeError, match=r"more than 100 values\."):
        parse_yaml("- 1\n" * 100 + "[unread, because it is too late")


def test_an_alias_to_its_own_ancestor_is_refused():
    with pytest.raises(RecipeError, match="its aliases unfold to more than"):
        parse_yaml("a: &a [*a]")


def test_a_plain_alias_is_fine():
    assert parse_yaml("a: &size [1, 2]\nb: *size") == {"a": [1, 2], "b": [1, 2]}


def test_what_is_dumped_reads_back_in_order():
    value = {"lr": 1e-4, "tiny": 1e-05, "z": None, "a": [1, {"ü": True}], "text": "1e-4"}
    assert parse_yaml(dump_yaml(value)) == value
    assert list(parse_yaml(dump_yaml(value))) == list(value)


def test_a_file_too_large_to_be_a_recipe_is_not_read(tmp_path):
    path = tmp_path / "large.yaml"
    path.write_bytes(b"#" * 10_000_000)
    with pytest.raises(RecipeError, match="10,000,000 bytes long; a recipe has at most 1,000,000"):
        read_yaml(path)
