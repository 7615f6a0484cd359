"""The strict reader: what is special, where things stand, and what is refused."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.settings import Complaints, MappingNode, Node, ScalarNode, SequenceNode, document, documents, plain
from gateway.settings.yaml import MAX_DEPTH, MAX_NODES


def read(text: str) -> tuple[Node | None, list[str]]:
    complaints = Complaints()
    return document(text.encode(), "f.yaml", complaints), [str(complaint) for complaint in complaints.found]


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        *((text, "bool") for text in ("true", "false")),
        *((text, "null") for text in ("null", "~")),
        *((text, "int") for text in ("0", "1", "-1", "+1", "2000000", "9" * 64)),
        *((text, "decimal") for text in ("1.5", "0.15", ".5", "1.", "-0.5", "1e3", "1.5E-3")),
        *((text, "text") for text in ("007", "0x1F", "0o17", "1_000", "10:30", "NO", "no", "yes", "on", "Off")),
        *((text, "text") for text in ("True", "TRUE", "Null", "NULL", "2026-01-31", ".inf", ".nan", ".", "-", "1.2.3")),
        *((text, "text") for text in ("'1'", '"true"', "'null'", "''", "00.5", "1e", "9" * 65)),
    ],
)
def test_only_the_core_schema_in_decimal_is_special(text: str, kind: str) -> None:
    """`007`, `0x1F`, `1_000`, `10:30`, `NO` and dates are text; quotes always make text."""
    node, mistakes = read(f"key: [{text}]")
    assert isinstance(node, MappingNode)
    listed = node.entries["key"][1]
    assert isinstance(listed, SequenceNode)
    scalar = listed.items[0]
    assert isinstance(scalar, ScalarNode)
    assert (scalar.kind, mistakes) == (kind, [])


def test_every_node_knows_its_place_and_its_text() -> None:
    """A price keeps the digits that were written; line and column count from one."""
    node, _ = read("a:\n  b: 0.10\n")
    assert isinstance(node, MappingNode)
    inner = node.entries["a"][1]
    assert isinstance(inner, MappingNode)
    scalar = inner.entries["b"][1]
    assert isinstance(scalar, ScalarNode)
    assert (scalar.text, scalar.line, scalar.column) == ("0.10", 2, 6)
    assert (inner.entries["b"][0].line, inner.entries["b"][0].column) == (2, 3)


@pytest.mark.parametrize(
    ("text", "line", "says"),
    [
        ("a: 1\nb: 2\na: 3\n", 3, "the key `a` stands twice (first in line 1)"),
        ("a: &x 1\n", 1, "the anchor &x is not allowed"),
        ("a: 1\nb: *x\n", 2, "the alias *x is not allowed"),
        ("a: 1\n<<: {b: 1}\n", 2, "merge keys are not allowed"),
        ("a: !!python/object/apply:os.system [id]\n", 1, "python/object/apply:os.system is not allowed"),
        ("a: !!str 1\n", 1, "the tag tag:yaml.org,2002:str is not allowed"),
        ("a: ! b\n", 1, "the tag ! is not allowed"),
        ("1: a\n", 1, "the key `1` is not text"),
        ("true: a\n", 1, "the key `true` is not text"),
        ("? [a]\n: b\n", 1, "a key must be text"),
        ("a: [1\n", 2, "this is not YAML"),
        ('a: "\\ud800"\n', 1, "this is not YAML"),
        ('a: "\\UFFFFFFFF"\n', 1, "this is not YAML"),
        ("a: 1\n---\nb: 2\n", 3, "more than one document"),
        ("[" * 100, 1, f"more than {MAX_DEPTH} levels"),
        ("- a\n" * (MAX_NODES + 1), MAX_NODES, f"more than {MAX_NODES} values"),
    ],
)
def test_what_a_reader_could_overlook_is_refused(text: str, line: int, says: str) -> None:
    """P7: duplicate keys, aliases, merge keys and tags each are a mistake with its line and a remedy."""
    _, mistakes = read(text)
    assert any(mistake.startswith(f"f.yaml:{line}: ") and says in mistake for mistake in mistakes), mistakes
    assert all("; " in mistake for mistake in mistakes)


def test_an_alias_bomb_never_grows() -> None:
    """P7, S19: nine levels of ten aliases are refused one by one, and nothing is multiplied."""
    levels = [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 10)]
    node, mistakes = read("a0: &a0 lol\n" + "\n".join(levels))
    assert len(mistakes) == 100  # all that are kept
    assert len(str(plain(node) if node else "")) < 10_000


def test_a_file_of_more_than_ten_mebibytes_is_not_parsed() -> None:
    """S19: size is looked at before anything else."""
    _, mistakes = read("#" * (10 * 1024 * 1024 + 1))
    assert mistakes == ["f.yaml:1: the file is larger than 10 MiB; split it, or remove what is not needed"]


def test_bytes_that_are_not_utf8_are_named_with_their_line() -> None:
    """A Latin-1 file is a mistake, not mojibake."""
    complaints = Complaints()
    assert document(b"a: 1\nb: \xff\n", "f.yaml", complaints) is None
    assert str(complaints.found[0]) == "f.yaml:2: the file is not UTF-8; save it as UTF-8"


def test_a_complaint_cannot_move_the_terminal() -> None:
    """What a complaint quotes of a file is printable, whatever the file holds."""
    _, mistakes = read('"a\\e[2J": 1\n"a\\e[2J": 2\n')
    assert len(mistakes) == 1
    assert mistakes[0].isprintable()


def test_several_documents_are_read_in_order() -> None:
    """A policy file may hold several."""
    complaints = Complaints()
    found = documents(b"a: 1\n---\nb: [x, ~]\n", "f.yaml", complaints)
    assert [plain(node) for node in found] == [{"a": 1}, {"b": ["x", None]}]
    assert not complaints.found


@given(st.one_of(st.text(), st.text(alphabet="ab01 \n\t:-[]{},&*!?|>'\"#%@<~.")))
def test_no_text_gives_a_traceback(text: str) -> None:
    """Any text is either read or complained about."""
    complaints = Complaints()
    data = text.encode("utf-8", "surrogatepass")
    found = documents(data, "f.yaml", complaints)
    for node in found:
        plain(node)
    assert found or complaints.total or not text.strip("\ufeff \n\r\t#") or text.lstrip().startswith(("#", "%", "."))


@given(st.binary())
def test_no_bytes_give_a_traceback(data: bytes) -> None:
    """Nor do bytes that are no text."""
    complaints = Complaints()
    found = documents(data, "f.yaml", complaints)
    assert isinstance(found, list)
    assert not (found and complaints.found and complaints.found[-1].problem.startswith("this is not YAML"))


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(st.characters(max_codepoint=0xD7FF)),
        lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text("abc", min_size=1), inner, max_size=4),
        max_leaves=20,
    )
)
def test_json_is_read_as_what_it_says(value: object) -> None:
    """JSON is YAML (but for escaped surrogate pairs): what a program writes is read back the same."""
    complaints = Complaints()
    node = document(json.dumps({"value": value}).encode(), "f.yaml", complaints)
    assert node is not None, complaints.found
    assert plain(node) == {"value": value}
