"""Patterns of matches(): what they find is what RE2 finds, and a text is read once, whatever the pattern."""

from __future__ import annotations

import random
from typing import Final

import pytest

from gateway.policy.cel import STRING, CelMistake
from gateway.policy.cel.automaton import MAX_STATES, Pattern
from gateway.policy.cel.values import ITEM
from tests.identity.mutants import SEED, Cases
from tests.policy.cel.oracle import Failed, Oracle

CHARS: Final = "abcAB1_ -.\nékK\u212a\u017f\U0001f600]^[{}\\z"


def found(pattern: str, text: str) -> bool:
    """Whether a pattern is in a text."""
    return Pattern(pattern, 0).found_in(text, lambda _: None)


@pytest.mark.parametrize(
    ("pattern", "there", "not_there"),
    [
        ("", ["", "a"], []), ("b", ["b", "abc"], ["", "a"]), ("^b", ["bc"], ["ab"]), ("b$", ["ab"], ["ba", "b\n"]),
        (r"\Ab\z", ["b"], ["ab", "b\n"]), ("(?m)^b$", ["a\nb\nc"], ["ab"]),
        ("a.c", ["abc", "a\U0001f600c"], ["a\nc"]), ("(?s)a.c", ["a\nc"], []), ("a|b|", ["x"], []),
        ("^(a|bc)+$", ["abca"], ["ab"]), ("^a{2,3}$", ["aa", "aaa"], ["a", "aaaa"]), ("^a{2}$", ["aa"], ["a", "aaa"]),
        ("^a{2,}$", ["aaaaa"], ["a"]), ("^a{,2}$", ["a{,2}"], ["a"]), ("^a*?b??$", ["aab", ""], ["ba"]),
        ("^[a-c]+$", ["abc"], ["d", ""]), ("^[^a-c]$", ["d", "\n"], ["a"]), ("^[]a]+$", ["]a"], ["b"]),
        ("^[a-]+$", ["a-"], ["b"]), (r"^[\d\-x]+$", ["1-x"], ["y"]), ("^[[:alpha:]_]+$", ["aZ_"], ["1", "é"]),
        ("^[[:^digit:]]$", ["a", "é"], ["1"]), (r"^\d+\s\w\W$", ["12\tz-"], ["\u0661 z-"]),
        (r"^\D\S$", ["ab"], ["1b", "a "]), (r"\bcat\b", ["a cat.", "cat"], ["cats", "scat"]),
        (r"\Bat", ["cat"], ["at"]), (r"^\pL\p{Lu}\PN\p{^L}$", ["éÉé1"], ["1ÉéE"]),
        ("(?i)straße", ["STRAßE"], ["strasse"]), ("(?i)^k$", ["K", "\u212a"], []), ("(?i)[a-c]x", ["BX"], ["dx"]),
        ("(?i)[^k]", ["a"], ["K", "\u212a"]), ("a(?i)b(?-i)c", ["aBc"], ["ABc", "abC"]), ("(?i:a)b", ["Ab"], ["AB"]),
        ("(a(?i)b)c", ["aBc"], ["aBC"]), (r"^\x41\x{1F600}\101\n\.$", ["A\U0001f600A\n."], []),
        (r"^\Qa.b\E+$", ["a.bb"], ["axb"]), (r"\Q\E^x", ["x"], []), ("^(?P<n>a)(?<m>b)(?:c)$", ["abc"], []),
        ("(|a)*b", ["b", "aab"], ["a"]), ("(^)*(a*)*$", ["", "b"], []), ("x{0}y", ["y"], []), ("^{$", ["{"], []),
        ("^}]$", ["}]"], []), ("\u00e9", ["caf\u00e9"], ["cafe\u0301"]),
    ],
)  # fmt: skip
def test_what_patterns_find(pattern: str, there: list[str], not_there: list[str]) -> None:
    """Each form of RE2's syntax that is supported means what it means in RE2."""
    oracle = Oracle({"s": STRING})
    quoted = "".join(f"\\U{ord(char):08x}" for char in pattern)
    theirs = oracle.compile(f"s.matches('{quoted}')")
    for text in there + not_there:
        assert found(pattern, text) is (text in there), (pattern, text)
        assert oracle.evaluate(theirs, oracle.facts({"s": text})) is (text in there), (pattern, text)


@pytest.mark.parametrize(
    ("pattern", "said"),
    [
        ("(a", "has a ( without a )"), ("a)", "has a ) without a ("), ("[a", "has a [ without a ]"),
        ("[]", "has a ["), ("*a", "repeats nothing"), ("a|+", "repeats nothing"), ("{2}", "repeats nothing"),
        ("a**", "repeats a repetition"), ("a{2}{3}", "repeats a repetition"), ("a{3,2}", "from more to less"),
        ("a{1001}", "more than 1000"), (r"a\1", r"has \1"), (r"\e", r"has \e"), ("a\\", "has \\, which"),
        ("(?=a)", "has a (? that"), ("(?<!a)b", "has a (? that"), ("(?P=n)", "has a (? that"),
        ("(?i-)a", "flags without"), ("(?-)", "flags without"), ("(?<>a)", "a group without a good name"),
        ("[b-a]", "from high to low"), (r"[a-\d]", r"has \d"), ("[[:x:]]", "a class that is not there"),
        (r"\p{Greek}", "asks for Greek"), (r"\x{110000}", r"has a \x without"), (r"\xg", r"has a \x without"),
        (r"\C", r"has \C"), (r"\é", r"has \é"), ("a" * 1001, "is longer than 1000"),
        ("(" * 40 + ")" * 40, "is nested deeper"), ("(a{100}){100}", "needs more than 1000 states"),
        ("((a{0,9}){0,9}){0,99}", "needs more than 1000 states"),
    ],
)  # fmt: skip
def test_patterns_that_are_refused(pattern: str, said: str) -> None:
    """P5: a pattern that is wrong, not supported or too large is a mistake at load."""
    with pytest.raises(CelMistake) as caught:
        Pattern(pattern, 7)
    assert said in caught.value.message
    assert caught.value.position == 7


@pytest.mark.parametrize(
    "pattern",
    [
        "(a+)+$", "(a|a)*b", "(a|aa)+$", "(.*)*x", "(x+x+)+y", "(a*)*b", "([a-z]+)*[0-9]", "(a?){200}a{200}",
        "^(([a-z])+.)+[A-Z]([a-z])+$", r"(\w+\s?)*$", "a.{0,90}b", "(a|b|ab)*c",
    ],
)  # fmt: skip
def test_bombs_are_read_once(pattern: str) -> None:
    """P5: patterns that take other engines for ever cost at most one look at each state for each character."""
    compiled, work = Pattern(pattern, 0), 0

    def pay(units: int) -> None:
        nonlocal work
        work += units

    text = "a" * 5000 + "!"
    compiled.found_in(text, pay)
    assert len(text) <= work / ITEM <= len(text) * (MAX_STATES + 1)
    first, work = work, 0
    compiled.found_in(text, pay)
    assert work < first, "what was met before is not kept"


def test_what_is_kept_is_bounded() -> None:
    """Texts that lead to ever new states and characters find what they found before, and leave little behind."""
    pattern = Pattern("(a|b)*a(a|b){12}c", 0)
    rng = random.Random(1)  # noqa: S311 # nothing secret
    for _ in range(20):
        text = "".join(rng.choice("ab") for _ in range(400))
        assert not pattern.found_in(text + "".join(map(chr, range(0x4E00, 0x4F00))), lambda _: None)
        assert pattern.found_in(text + "a" + "b" * 12 + "c", lambda _: None)
    assert len(pattern._states) <= 200
    single = Pattern("a", 0)
    assert not single.found_in("".join(map(chr, range(0x4E00, 0x5000))), lambda _: None)
    assert max(len(state.steps) for state in single._states.values()) <= 100


class PatternMaker:
    """Patterns made up at random, good ones and bad ones."""

    ATOMS: Final = (
        r"\d", r"\w", r"\s", r"\D", r"\W", r"\S", ".", r"\b", r"\B", "^", "$", r"\A", r"\z", r"\n", r"\.", r"\x41",
        r"\x{1F600}", r"\pL", r"\p{Lu}", r"\PN", r"\p{^L}", r"\Qa.b\E", r"\101", r"\_", r"\e", r"\1", r"\Z",
    )  # fmt: skip
    MEMBERS: Final = (
        "a", "b", "a-c", "0-9", r"\d", r"\W", "[:alpha:]", "[:^digit:]", "-", "]", "é", r"\pL", "[", "A-Z", "^",
        r"\]", r"\-", "z-a", "[:x:]",
    )  # fmt: skip
    GROUPS: Final = (
        "",
        "",
        "?:",
        "?i:",
        "?s:",
        "?m:",
        "?P<n>",
        "?<n>",
        "?-i:",
        "?im-s:",
        "?=",
        "?!",
        "?<=",
        "?i)(",
        "?U:",
    )
    SIGNS: Final = (
        "*",
        "+",
        "?",
        "{2}",
        "{1,2}",
        "{0,1}",
        "{2,}",
        "*?",
        "+?",
        "??",
        "{1,2}?",
        "**",
        "{2}{3}",
        "{0}",
        "{3,1}",
    )
    ODD: Final = ("é", "ß", "k", "K", "\u017f", "{", "}", "a{", "a{,2}", "a{1", "]", "|", "\\", "*", "(", ")")

    def __init__(self, rng: random.Random) -> None:
        """The same state of chance makes the same patterns."""
        self._random = rng

    def pattern(self, depth: int = 2) -> str:
        """A pattern of some alternatives."""
        rows = self._random.choice((1, 1, 1, 2, 3))
        return "|".join("".join(self._piece(depth) for _ in range(self._random.randint(0, 3))) for _ in range(rows))

    def text(self) -> str:
        """A short text of characters that patterns ask for."""
        return "".join(self._random.choice(CHARS) for _ in range(self._random.randint(0, 6)))

    def _piece(self, depth: int) -> str:
        return self._atom(depth) + (self._random.choice(self.SIGNS) if self._random.random() < 0.3 else "")

    def _atom(self, depth: int) -> str:
        chance = self._random.random()
        if chance < 0.35:
            return self._random.choice("abcAB1_ -")
        if chance < 0.45:
            return self._random.choice(self.ATOMS)
        if chance < 0.6:
            members = (self._random.choice(self.MEMBERS) for _ in range(self._random.randint(0, 3)))
            return f"[{self._random.choice(('', '^'))}{''.join(members)}]"
        if chance < 0.92 and depth > 0:
            return f"({self._random.choice(self.GROUPS)}{self.pattern(depth - 1)})"
        return self._random.choice(self.ODD)


@pytest.mark.soak
def test_patterns_made_up_at_random(capsys: pytest.CaptureFixture[str]) -> None:
    """A pattern is refused where RE2 refuses it, and is found where RE2 finds it."""
    cases, oracle, wrong = Cases("patterns", short=1000, long=20_000), Oracle({"s": STRING}), []
    maker = PatternMaker(cases.rng)
    for _ in cases:
        pattern = maker.pattern()
        theirs = oracle.compile("s.matches('" + "".join(f"\\U{ord(char):08x}" for char in pattern) + "')")
        for text in (maker.text() for _ in range(6)):
            if r"\B" in pattern and not text.isascii():
                continue  # RE2 finds it between the bytes of one character
            try:
                expected: object = oracle.evaluate(theirs, oracle.facts({"s": text}))
            except Failed:
                expected = "refused"
            try:
                outcome: object = found(pattern, text)
            except CelMistake:
                outcome = "refused"
            cases.counts[str(outcome)] += 1
            if outcome != expected:
                wrong.append((pattern, text, outcome, expected))
    with capsys.disabled():
        print(cases)
    assert wrong == [], f"PASSGATE_SEED={SEED}"
    assert min(cases.counts["True"], cases.counts["False"], cases.counts["refused"]) > 500
