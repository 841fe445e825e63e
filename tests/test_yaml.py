"""YAML as recipes need it: numbers as people write them, a key once, and nothing that can hurt."""

import pytest

from dalib.errors import RecipeError
from dalib.yaml import MAX_SIZE, dump_yaml, parse_yaml, read_yaml


def doubling(levels: int, uses: int = 9) -> str:
    """Return a short text whose aliases name ``uses ** levels`` values."""
    lines = ["a0: &a0 [1, 2]"]
    lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * uses)}]" for i in range(1, levels)]
    return "\n".join(lines)


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
        ("2024-01-02", "2024-01-02"),
        ("09", "09"),
        ("-08", "-08"),
        ("09.5", 9.5),
        ("1_000", 1000),
        ("1_000.5", 1000.5),
        ("1_0e3", 1e4),
        ("{=: 2}", {"=": 2}),
        ("a: &size [1, 2]\nb: *size", {"a": [1, 2], "b": [1, 2]}),
    ],
)
def test_a_value_is_what_it_looks_like(text, value):
    parsed = parse_yaml(text)
    assert parsed == value and type(parsed) is type(value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: 1\nb: 2\na: 3", "line 3: the key 'a' stands twice; it stands first on line 1."),
        ("x: {a: 1, a: 2}", "line 1: the key 'a' stands twice; it stands first on line 1."),
        ("x: &x {b: {c: 1, c: 2}}", "line 1: the key 'c' stands twice; it stands first on line 1."),
        ("1.5: x", "line 1: a key must be text, got 1.5."),
        ("? [1]\n: 2", "line 1: a key must be text, got [1]."),
        ("b: &b {x: 1}\nc:\n  <<: *b", "line 3: merge keys are not supported; use `base`, or write it out."),
        ("a: [1, .nan]", "line 1: expected a finite number of at most 64 bits, got .nan."),
        ("a: 1\nb: -.inf", "line 2: expected a finite number of at most 64 bits, got -.inf."),
        ("1e400", "line 1: expected a finite number of at most 64 bits, got 1e400."),
        ("[1, 2", "not YAML on line 1: expected ',' or ']', but got '<stream end>'."),
        ("a: b: c", "not YAML on line 1: mapping values are not allowed here."),
        ("a:\n\tb: x", "not YAML on line 2: found character '\\t' that cannot start any token."),
        ("a: 'x", "not YAML on line 1: found unexpected end of stream."),
        ("a: 1\n---\nb: 2", "not YAML on line 2: but found another document."),
        ("a: \x00", "not YAML: ReaderError: unacceptable character #x0000: special characters are not allowed in"),
        ("a: *nobody", "not YAML on line 1: found undefined alias 'nobody'."),
        ("!!python/object/apply:os.system ['true']", "not YAML on line 1: could not determine a constructor for"),
        ("a: !!timestamp 2024-01-02", "not YAML on line 1: could not determine a constructor for the tag"),
        ("a: !!bool maybe", "not YAML: KeyError: 'maybe'."),
        ("a: !!int ''", "not YAML: IndexError: string index out of range."),
        ("a: !!map [b]", "not YAML: TypeError: "),
        ("a: 1\nb: 0x" + "9" * 5000, "line 2: expected a finite number of at most 64 bits, got 0x999"),
        ("a: &a [*a]", "not YAML on line 1: found unconstructable recursive node."),
        ("a" * (MAX_SIZE + 1), "100,001 characters long; a recipe has at most 100,000."),
    ],
)
def test_a_text_that_is_none_is_refused_with_its_name_and_line(text, message):
    with pytest.raises(RecipeError) as caught:
        parse_yaml(text, "some.yaml")
    assert str(caught.value).startswith(f"some.yaml: {message}")


UNFOLDS = f"its aliases unfold to more than {MAX_SIZE:,} characters."
DEEP = "lists or mappings are nested too deep."


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (doubling(30), UNFOLDS),
        (f"a: &a [{'1, ' * 9_000}]\nb: [{'*a, ' * 9_000}]", UNFOLDS),
        (f"a: &a {'x' * 9_000}\nb: [{'*a, ' * 9_000}]", UNFOLDS),
        ("[" * MAX_SIZE, DEEP),
        ("- " * (MAX_SIZE // 2), DEEP),
        ("? " * (MAX_SIZE // 2), DEEP),
        ("{a: " * (MAX_SIZE // 4), DEEP),
        ("a: " + "[" * 1000 + "]" * 1000, DEEP),
    ],
    ids=["aliases", "two levels of aliases", "a long text", "lists", "rows", "keys", "mappings", "closed"],
)
def test_a_text_within_the_limit_cannot_unfold_or_nest_without_bound(text, message):
    assert len(text) <= MAX_SIZE
    with pytest.raises(RecipeError) as caught:
        parse_yaml(text, "bomb.yaml")
    assert str(caught.value) == f"bomb.yaml: {message}"


def test_each_use_of_an_alias_is_a_value_of_its_own():
    value = parse_yaml("a: &a {size: [1, 2]}\nb: *a")
    value["a"]["size"][0] = 9
    assert value["b"] == {"size": [1, 2]}


def test_what_is_dumped_reads_back_in_order():
    value = {"lr": 1e-4, "tiny": 1e-05, "z": None, "a": [1, {"ü": True}], "text": "1e-4", "date": "2024-01-02"}
    assert parse_yaml(dump_yaml(value)) == value
    assert list(parse_yaml(dump_yaml(value))) == list(value)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"#" * 10_000_000, ": 100,001 characters long; a recipe has at most 100,000."),
        (b"\x89PNG\r\n\x1a\n\xff", " is not a text in UTF-8; expected a YAML file."),
        ("a: b".encode("utf-16"), " is not a text in UTF-8; expected a YAML file."),
        (None, " does not exist."),
    ],
)
def test_a_file_that_is_no_yaml_is_named(content, message, tmp_path):
    path = tmp_path / "some.yaml"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(RecipeError) as caught:
        read_yaml(path)
    assert str(caught.value) == f"{path}{message}"


@pytest.mark.parametrize(
    ("name", "reason"), [("", "Is a directory"), ("x" * 5000, "File name too long"), ("\0", "embedded null byte")]
)
def test_what_is_no_file_is_named(name, reason, tmp_path):
    with pytest.raises(RecipeError, match=f" cannot be read: {reason}\\.$"):
        read_yaml(tmp_path / name)
