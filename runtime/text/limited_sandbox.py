"""Jinja for templates of strangers: jinja's sandbox keeps them from the program, this keeps them from its resources.

A template runs by the steps of a `TemplateBudget`: each turn of a loop, call, filter, operator and output is one, and
what it makes is counted, before it is made where that could be large. Nothing is computed when a template is compiled.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Generator, Iterable, Iterator
from functools import wraps
from typing import Any, Final

from jinja2 import TemplateRuntimeError, TemplateSyntaxError, nodes
from jinja2.compiler import CodeGenerator
from jinja2.parser import Parser
from jinja2.runtime import Context
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.visitor import NodeTransformer

from skipstone.runtime.text.template_budget import TemplateBudget

__all__ = ["LimitedSandbox"]

SOURCE_CHARACTERS: Final = 400_000
# Deeper expressions would overflow the stack, deeper loops are more than Python takes.
DEPTH, LOOP_DEPTH = 150, 15
# Filters and globals that no chat template has a use for, and whose cost is hard to tell.
LEFT_OUT: Final = ("pprint", "urlize", "wordwrap", "xmlattr", "random", "filesizeformat")
COUNTED, JOINED, MADE = "skipstone_counted", "skipstone_joined", "skipstone_made"
# Filters whose arguments are widths, or numbers of digits or parts.
WIDTHS: Final = ("batch", "center", "indent", "round", "slice", "tojson")
# Filters that make text, or a list, of all that a value holds.
SHOWING: Final = ("string", "tojson", "safe", "escape", "e", "forceescape", "upper", "lower", "list")
# Methods of texts and numbers whose arguments are widths.
WIDE_METHODS: Final = ("center", "expandtabs", "ljust", "rjust", "to_bytes", "zfill")


class LimitedSandbox(ImmutableSandboxedEnvironment):
    """A sandbox in which a template runs within a budget, see `within`."""

    intercepted_binops = frozenset(("+", "-", "*", "/", "//", "%", "**"))

    def __init__(self, **options: Any) -> None:
        super().__init__(optimized=False, finalize=self._finalized, **options)
        self._running = threading.local()
        self.code_generator_class = _NothingComputed
        for name in LEFT_OUT:
            self.filters.pop(name, None)
        self.globals.pop("lipsum", None)

    def finish(self) -> LimitedSandbox:
        """Watch all filters, also those that were added; return this."""
        self.filters = {name: self._watched(name, run) for name, run in self.filters.items()}
        self.filters |= {COUNTED: self._counted, JOINED: self._joined, MADE: lambda value: self.budget.made(value)}
        return self

    @property
    def budget(self) -> TemplateBudget:
        """What is left to the rendering of this thread."""
        budget: TemplateBudget | None = getattr(self._running, "budget", None)
        if budget is None:
            raise TemplateRuntimeError("nothing is computed before a template is rendered")
        return budget

    def within(self, budget: TemplateBudget, render: Callable[[], str]) -> str:
        """Return what `render` does within a budget."""
        before, self._running.budget = getattr(self._running, "budget", None), budget
        try:
            return render()
        finally:
            self._running.budget = before

    def _parse(self, source: str, name: str | None, filename: str | None) -> nodes.Template:
        if len(source) > SOURCE_CHARACTERS:
            raise TemplateSyntaxError(f"it has {len(source)} characters, at most {SOURCE_CHARACTERS} are read", 1)
        parser = Parser(self, source, name, filename)
        try:
            tree = parser.parse()
        except (RecursionError, MemoryError):
            raise TemplateSyntaxError("it is nested too deeply", parser.stream.current.lineno) from None
        except ValueError:
            raise TemplateSyntaxError("a number has too many digits", parser.stream.current.lineno) from None
        watched: nodes.Template = _Watching().visit(tree)
        return watched

    def concat(self, pieces: Iterable[str]) -> str:
        """Return texts as one, counted as they come."""
        made, budget = [], self.budget
        for piece in pieces:
            try:
                budget.characters(len(piece))
            except TemplateRuntimeError as error:
                if isinstance(pieces, Generator):
                    pieces.throw(error)  # so that the error names the line that made too much
                raise
            made.append(piece)
        return "".join(made)

    def wrap_str_format(self, value: Any) -> Callable[..., str] | None:
        """Return what stands for the `format` of a text, which is looked at when it is called."""
        run = super().wrap_str_format(value)
        if run is None:
            return None

        @wraps(run)
        def looked_at(*args: Any, **kwargs: Any) -> str:
            self.budget.format(value.__self__)
            self.budget.contained([*args, *kwargs.values()])
            return run(*args, **kwargs)

        return looked_at

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        """Return what a binary operator gives, of operands that were looked at."""
        budget = self.budget
        budget.step()
        if operator == "*":
            budget.product(left, right)
        elif operator == "**":
            budget.power(left, right)
        elif operator == "%" and isinstance(left, str):
            budget.format(left)
            budget.contained(right)
        return budget.made(super().call_binop(context, operator, left, right))

    def call(__self, __context: Context, __obj: Any, *args: Any, **kwargs: Any) -> Any:
        """Return what a call gives, of arguments that were looked at."""
        budget = __self.budget
        budget.step()
        owner, name = getattr(__obj, "__self__", None), getattr(__obj, "__name__", "")
        args = tuple(map(_at_once, args)) if name == "join" else args
        if isinstance(owner, str | bytes | int) and isinstance(name, str):
            _look_at_method(budget, owner, name, [*args, *kwargs.values()])
        return budget.made(super().call(__context, __obj, *args, **kwargs))

    def _finalized(self, value: Any) -> Any:
        budget = self.budget
        budget.step()
        return value if isinstance(value, str) else budget.text(value)

    def _counted(self, iterable: Any) -> Any:
        return _Counted(iterable, self.budget) if hasattr(iterable, "__len__") else _steps(iterable, self.budget)

    def _joined(self, pieces: list[Any]) -> str:
        return "".join(map(self.budget.text, pieces))

    def _watched(self, name: str, run: Callable[..., Any]) -> Callable[..., Any]:
        """Return a filter that counts itself and what it makes, and looks at its arguments."""

        @wraps(run)  # it keeps the marks by which jinja knows what a filter takes first
        def watched(*args: Any, **kwargs: Any) -> Any:
            budget, args = self.budget, tuple(map(_at_once, args)) if name == "join" else args
            budget.step()
            _look_at_filter(budget, name, [*args, *kwargs.values()])
            made = run(*args, **kwargs)
            return _steps(made, budget) if isinstance(made, Iterator) else budget.made(made)

        return watched


class _NothingComputed(CodeGenerator):
    """Writes the code of a template as it stands: constants are not computed."""

    def _output_child_to_const(self, node: nodes.Expr, frame: Any, finalize: Any) -> str:
        if not isinstance(node, nodes.TemplateData):
            raise nodes.Impossible
        return super()._output_child_to_const(node, frame, finalize)


class _Watching(NodeTransformer):
    """Puts filters of this file around what jinja runs without asking: loops, `~`, slices, lists and mappings.

    Raises: TemplateSyntaxError for a template that is nested too deeply.
    """

    def __init__(self) -> None:
        self._depth = self._loops = 0

    def generic_visit(self, node: nodes.Node, *args: Any, **kwargs: Any) -> nodes.Node:
        self._depth += 1
        if self._depth > DEPTH or self._loops > LOOP_DEPTH:
            raise TemplateSyntaxError("it is nested too deeply", node.lineno or 1)
        visited: nodes.Node = super().generic_visit(node, *args, **kwargs)
        self._depth -= 1
        return visited

    def visit_For(self, node: nodes.For) -> nodes.For:
        self._loops += 1
        self.generic_visit(node)
        self._loops -= 1
        node.iter = _filtered(node.iter, COUNTED)
        return node

    def visit_Concat(self, node: nodes.Concat) -> nodes.Filter:
        self.generic_visit(node)
        return _filtered(nodes.List(list(node.nodes), lineno=node.lineno), JOINED)

    def visit_Getitem(self, node: nodes.Getitem) -> nodes.Expr:
        self.generic_visit(node)
        return _filtered(node, MADE) if isinstance(node.arg, nodes.Slice) else node

    def visit_List(self, node: nodes.List) -> nodes.Expr:
        self.generic_visit(node)
        return node if all(isinstance(item, nodes.Const) for item in node.items) else _filtered(node, MADE)

    def visit_Tuple(self, node: nodes.Tuple) -> nodes.Expr:
        if node.ctx == "store":
            return node
        self.generic_visit(node)
        return node if all(isinstance(item, nodes.Const) for item in node.items) else _filtered(node, MADE)

    def visit_Dict(self, node: nodes.Dict) -> nodes.Expr:
        self.generic_visit(node)
        return _filtered(node, MADE)


def _filtered(node: Any, name: str) -> nodes.Filter:
    return nodes.Filter(node, name, [], [], None, None, lineno=node.lineno)


class _Counted:
    """What a loop goes over, whose length is known: each turn is a step."""

    def __init__(self, iterable: Any, budget: TemplateBudget) -> None:
        self._iterable, self._budget = iterable, budget

    def __len__(self) -> int:
        return len(self._iterable)

    def __iter__(self) -> Iterator[Any]:
        return _steps(self._iterable, self._budget)


def _steps(iterable: Iterable[Any], budget: TemplateBudget) -> Iterator[Any]:
    for item in iterable:
        budget.step()
        yield item


def _at_once(value: Any) -> Any:
    """Return the items of what gives them one by one as a list, which can be looked at; other values as they are."""
    return list(value) if isinstance(value, Iterator) else value


def _look_at_filter(budget: TemplateBudget, name: str, given: list[Any]) -> None:
    """Look at what a filter gets before it runs."""
    if name in WIDTHS:
        for value in given:
            budget.width(value)
    if name in SHOWING:
        for value in given:
            budget.contained(value)
    texts = [value for value in given if isinstance(value, str)]
    lists = [value for value in given if isinstance(value, list | tuple)]
    if name == "replace" and len(texts) >= 3:
        budget.replaced(*texts[:3])
    elif name == "indent" and len(texts) > 1:
        budget.room_for_characters(len(texts[0]) + (texts[0].count("\n") + 1) * len(texts[1]))
    elif name == "join" and texts and lists:
        budget.joined(texts[-1], lists[0])
    elif name == "format" and texts:
        budget.format(texts[0])
    elif name == "sum" and len(lists) > 1:
        raise TemplateRuntimeError("sum is for numbers")
    elif name == "list" and given and hasattr(given[-1], "__len__"):
        budget.items(len(given[-1]))


def _look_at_method(budget: TemplateBudget, owner: str | bytes | int, name: str, given: list[Any]) -> None:
    """Look at the call of a method of a text or a number before it is made."""
    if name in WIDE_METHODS:
        for value in given:
            budget.width(value)
    if not isinstance(owner, str):
        return
    texts = [value for value in given if isinstance(value, str)]
    if name == "replace" and len(texts) >= 2:
        budget.replaced(owner, texts[0], texts[1])
    elif name == "join" and given:
        budget.joined(owner, given[0])
    elif name in ("split", "rsplit", "splitlines"):
        separators = texts[:1] or [" ", "\n", "\t", "\r"]
        budget.items(sum(map(owner.count, filter(None, separators))))
