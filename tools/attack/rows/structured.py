"""Schemas, regexes and grammars that hang compilers or reach out of the machine."""

from collections.abc import Iterator
from typing import Any

from tools.attack.case import BAD, CHAT, COMPLETIONS, EITHER, GOOD, TOO_LARGE, Case, Row, crossed
from tools.attack.target import Dialect, Target

BUDGET = 20.0
"""Seconds for a compile budget, and for the queue before it when several bombs are sent at once."""
UNIQUE_SCHEMAS = 200

NESTED: dict[str, Any] = {"type": "string"}
for _ in range(240):  # 480 levels of JSON; Python can't write 1,000
    NESTED = {"type": "object", "properties": {"a": NESTED}}


def regexes(target: Target) -> Iterator[Case]:
    hostile = (
        *(r"(a+)+b", r"(a|a)*$", r"a{1,100000}", r"((a{1,100}){1,100}){1,100}", r"\p{L}{1,5000}"),
        *(r"(?:a?){500}a{500}", r"(.*)*(.*)*(.*)*x", "[" * 5000, "(" * 5000 + ")" * 5000),
    )
    wrong = (r"\1(a)", r"(", "", r"[z-a]", r"a{2,1}", "*", "a" * 1_000_000, 7, None, ["a"], {"a": 1})
    for value, want in (*((text, EITHER) for text in hostile), *((text, BAD) for text in wrong)):
        fields = {"structured_outputs": {"regex": value}}
        yield from crossed(target, "H56", repr(value)[:30], fields, want, apis=(COMPLETIONS,), seconds=BUDGET)


def _schemas(target: Target) -> Iterator[tuple[str, Any, frozenset[int]]]:
    """Name, schema, and what may come: many a server knows more of JSON schema than another."""
    yield "reference to itself", {"$ref": "#"}, EITHER
    cycle = {"a": {"$ref": "#/$defs/b"}, "b": {"$ref": "#/$defs/a"}}
    yield "cycle", {"$defs": cycle, "$ref": "#/$defs/a"}, EITHER
    yield "missing reference", {"$ref": "#/$defs/nothing"}, BAD
    yield "remote reference", {"$ref": target.tripwire}, BAD
    yield "metadata service", {"$ref": "http://169.254.169.254/latest/meta-data"}, BAD
    yield "remote schema", {"$schema": target.tripwire, "type": "object"}, EITHER
    yield "file reference", {"$ref": "file:///etc/passwd"}, BAD
    yield "100,000 anyOf", {"anyOf": [{"type": "string"}] * 100_000}, TOO_LARGE
    yield "200,000 enum", {"enum": list(range(200_000))}, TOO_LARGE
    yield "pattern bomb", {"type": "string", "pattern": "((a{1,100}){1,100}){1,100}"}, EITHER
    yield "broken pattern", {"type": "string", "pattern": "("}, BAD
    yield "multipleOf 0", {"type": "integer", "multipleOf": 0}, EITHER
    yield "minItems 10^9", {"type": "array", "items": {"type": "integer"}, "minItems": 10**9}, EITHER
    yield "maxLength 10^9", {"type": "string", "maxLength": 10**9}, EITHER
    yield "240 objects in one another", NESTED, BAD
    yield "unknown type", {"type": "bogus"}, BAD
    yield "type of a number", {"type": ["object", 1]}, BAD
    yield "false", False, BAD
    yield "a list", [], BAD
    yield "a text", "x", BAD
    yield "not text", {"properties": {"a": 7}}, BAD
    yield "contradiction", {"type": "integer", "minimum": 5, "maximum": 1}, EITHER
    yield "empty enum", {"enum": []}, EITHER
    yield "names with NUL", {"type": "object", "properties": {"a\0\n": {"type": "null"}}}, EITHER
    yield "surrogate", {"enum": ["\ud800"]}, BAD


def schemas(target: Target) -> Iterator[Case]:
    for name, schema, want in _schemas(target):
        form = {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}
        yield from crossed(target, "H57", name, {"response_format": form}, want, apis=(CHAT,), seconds=BUDGET)


def many_schemas(target: Target) -> Iterator[Case]:
    for number in range(UNIQUE_SCHEMAS):
        schema = {"type": "object", "properties": {f"field_{number}": {"type": "integer"}}}
        form = {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}
        fields = {"response_format": form, "max_tokens": 1}
        yield from list(crossed(target, "H58", f"schema {number}", fields, GOOD, apis=(CHAT,)))[:1]


def grammars(target: Target) -> Iterator[Case]:
    hostile = (
        *(
            "root ::= root",
            'root ::= root "a" | root',
            'root ::= "a',
            "",
            "root",
            'root ::= ("a"',
            "start: start",
        ),
        *('root ::= "a"{1,1000000000}', 'start: "a"~100000000', "root ::= [^\\x00-\\uFFFF", "x" * 1_000_000),
        *(
            "root ::= " + "(" * 5000 + '"a"' + ")" * 5000,
            "root ::= a\na ::= b\nb ::= a",
            "\0",
            '%import "/etc/passwd"',
        ),
        "root ::= " + " ".join(['"a"?'] * 2000),
    )
    for text in hostile:
        field = {"grammar": text}
        fields = field if target.dialect is Dialect.LLAMA_CPP else {"structured_outputs": field}
        want = BAD if text in ("", "\0") or len(text) > 900_000 else EITHER
        yield from crossed(target, "H60", repr(text)[:30], fields, want, apis=(COMPLETIONS,), seconds=BUDGET)


def conflicts(target: Target) -> Iterator[Case]:
    yield from crossed(target, "H62", "unknown response_format", {"response_format": {"type": "xml"}})
    formats: tuple[Any, ...] = ("json", 7, [], {"type": 7}, {"type": "json_schema"}, {})
    for value in formats:
        want = EITHER if value in ({}, []) else BAD
        yield from crossed(target, "H62", f"response_format={value!r}", {"response_format": value}, want)
    both = {"structured_outputs": {"regex": "a+", "choice": ["a"]}}
    yield from crossed(target, "H62", "two constraints", both)
    form = {"response_format": {"type": "json_object"}, "structured_outputs": {"regex": "a+"}}
    yield from crossed(target, "H62", "a constraint and a format", form)
    for choices in ([], ["a"] * 100_000, [7], "a", 7):
        yield from crossed(
            target, "H62", f"choice={choices!r:.40}", {"structured_outputs": {"choice": choices}}
        )
    yield from crossed(target, "H62", "unknown constraint", {"structured_outputs": {"nothing": 1}})


HAVE_STRUCTURED = frozenset({Dialect.LOOPSERVE, Dialect.VLLM})
HAVE_GRAMMARS = HAVE_STRUCTURED | {Dialect.LLAMA_CPP}

ROWS = (
    Row("H56", "regexes that explode or don't parse", regexes, HAVE_STRUCTURED),
    Row("H57", "schemas with cycles, remote references, bombs, nonsense", schemas),
    Row("H58", f"{UNIQUE_SCHEMAS} schemas, each new", many_schemas),
    Row("H60", "grammars: left recursion, unterminated, a megabyte, 10⁹ repeats", grammars, HAVE_GRAMMARS),
    Row(
        "H62", "formats and constraints that don't exist or contradict each other", conflicts, HAVE_STRUCTURED
    ),
)
