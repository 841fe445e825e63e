"""The mutants of a file: mutmut's operators, on every function, decorated ones included."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import libcst as cst
import libcst.matchers as m
from libcst.metadata import MetadataWrapper, PositionProvider
from mutmut.mutation import mutators

# Text for people, types, and what only a type checker reads.
_LEFT_OUT = (
    m.Raise()
    | m.Assert()
    | m.Annotation()
    | m.Decorator()
    | m.Import()
    | m.ImportFrom()
    | m.Arg(keyword=m.Name("strict"))  # of zip: what only a bug can break, as assert
    | m.FormattedString()
    | m.ConcatenatedString()
    | m.If(test=m.Name("TYPE_CHECKING"))
    | m.Assign(value=m.Call(func=m.Name("TypeVar")))
    | m.Call(func=m.Attribute(value=m.Name("logger") | m.Name("warnings")))
    | m.Call(func=m.Name("add_to") | m.Name("suggest") | m.Name("cast"))
)
_TEXT = m.SimpleString(value=m.MatchIfTrue(lambda value: " " in value or value.startswith('"""')))


@dataclass(frozen=True)
class Mutant:
    """One change of a file."""

    change: str  # the lines it replaces and what stands there then, by which a survivor is named
    source: str
    lines: range  # of the innermost statement
    at_import: bool  # the changed code runs when the module is imported


def mutants_of(path: Path) -> list[Mutant]:
    """Return the mutants of a file, without those that compile to what the file or another mutant does."""
    source = path.read_text()
    collector = _Collector()
    MetadataWrapper(cst.parse_module(source), unsafe_skip_copy=True).visit(collector)
    found: dict[object, Mutant | None] = {_code(source): None, None: None}  # None: no Python, such as f(a=b, c)
    for mutated, lines, at_import in collector.found:
        code = _code(mutated)
        if code not in found:
            found[code] = Mutant(_change(source, mutated), mutated, lines, at_import)
    return [mutant for mutant in found.values() if mutant is not None]


class _Collector(cst.CSTVisitor):
    METADATA_DEPENDENCIES = (PositionProvider,)

    def __init__(self) -> None:
        super().__init__()
        self.found: list[tuple[str, range, bool]] = []
        self._functions = 0  # whose bodies this node is in; defaults belong to what is around
        self._bodies: set[int] = set()
        self._statements: list[range] = []

    def on_visit(self, node: cst.CSTNode) -> bool:
        if isinstance(node, cst.Module):
            self._module = node
        if m.matches(node, _LEFT_OUT) or m.matches(node, _TEXT):
            return False
        if isinstance(node, cst.BaseSmallStatement | cst.BaseCompoundStatement):
            self._statements.append(self._lines(node))
        if isinstance(node, cst.FunctionDef):
            self._bodies.add(id(node.body))
        self._functions += id(node) in self._bodies
        for mutated in _mutated(node):
            changed = self._module.deep_replace(node, mutated)
            self.found.append((changed.code, self._statements[-1], not self._functions))
        return True

    def on_leave(self, node: cst.CSTNode) -> None:
        self._functions -= id(node) in self._bodies
        if self._statements and isinstance(node, cst.BaseSmallStatement | cst.BaseCompoundStatement):
            self._statements.pop()

    def _lines(self, node: cst.CSTNode) -> range:
        at = self.get_metadata(PositionProvider, node)
        body = getattr(node, "body", None)  # of a compound statement the head alone
        end = at.end.line if body is None else self.get_metadata(PositionProvider, body).start.line
        return range(at.start.line, end + 1)


def _mutated(node: cst.CSTNode) -> Iterator[cst.CSTNode]:
    if isinstance(node, cst.If | cst.While):
        yield node.with_changes(test=_negated(node.test))
    if isinstance(node, cst.Call):
        yield from _without_an_argument(node)
    for kind, operator in mutators.mutation_operators:
        if isinstance(node, kind) and operator is not mutators.operator_arg_removal:
            yield from list(operator(node))[: 1 if operator is mutators.operator_string else None]


def _without_an_argument(call: cst.Call) -> Iterator[cst.Call]:
    """Leave out one argument; mutmut also passes None in its place, which says the same twice."""
    if len(call.args) == 1:
        yield from mutators.operator_arg_removal(call)
    for i, arg in enumerate(call.args if len(call.args) > 1 else ()):
        if not m.matches(arg, _LEFT_OUT):
            yield call.with_changes(args=[*call.args[:i], *call.args[i + 1 :]])


def _negated(test: cst.BaseExpression) -> cst.UnaryOperation:
    return cst.UnaryOperation(
        cst.Not(), test.with_changes(lpar=[cst.LeftParen(), *test.lpar], rpar=[*test.rpar, cst.RightParen()])
    )


def _code(source: str) -> object:
    try:
        return _plain(compile(source, "mutant", "exec"))
    except SyntaxError:
        return None


def _plain(code: object) -> object:
    """Return what a code object does, without its positions."""
    if not hasattr(code, "co_code"):
        return repr(code)
    return (code.co_code, code.co_names, code.co_varnames, tuple(map(_plain, code.co_consts)))


def _change(old: str, new: str) -> str:
    gone, come = old.splitlines(), new.splitlines()
    for end in (0, -1):
        while gone and come and gone[end] == come[end]:
            del gone[end], come[end]
    return " -> ".join(" ".join(line.strip() for line in lines) for lines in (gone, come))
