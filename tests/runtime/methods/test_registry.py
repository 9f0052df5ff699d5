"""Where methods come from: a file each, or another package; and that nobody else knows them by name."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path

import pytest

import skipstone.cli
import skipstone.runtime
from skipstone.errors import ConfigError
from skipstone.language_model import LanguageModel
from skipstone.runtime.engine import Model
from skipstone.runtime.methods import approximate_methods, known_methods, method_named, registered_drafters

WORDS = [
    "plain",
    "auto",
    "ngram",
    "suffix",
    "recycle",
    "model",
    "self",
    "skip",
    "sparse",
    "async-model",
    "big-little",
    "free",
    "jacobi",
    "lookahead",
    "staged",
    "tree",
    "active",
    "adadec",
    "adaptive",
    "cascade",
    "cautious",
    "exit",
    "momentum",
    "skipdecode",
    "switch",
]
RUNTIME, SDK = Path(skipstone.runtime.__file__).parent, Path(skipstone.cli.__file__).parents[1]
# Words that say something else than a method there.
# Of exits and their adapters, of carved experts, of prompts.
OTHER_MEANINGS = {
    (name, "auto") for name in ("export.py", "api.py", "stages.py", "exit_adapters.py", "shape.py", "prefill.py")
}
# The contract of devices tries these on every device.
OTHER_MEANINGS |= {("device_contract.py", name) for name in ("auto", "ngram", "plain", "tree")}


def test_every_method_is_known_the_cheapest_first_and_those_that_only_write_last() -> None:
    assert [*known_methods()] == WORDS


def test_a_method_drafts_joins_or_writes_and_its_dial_starts_at_the_plain_end() -> None:
    for name, method in known_methods().items():
        assert method.name == name
        assert method.drafts or method.joins or method.writes
        assert method.dial.settings[0] == method.dial.plain in (method.dial.least, method.dial.most)
        assert (len(method.dial.settings) == 5) is (method.writes is not None)
    assert {*approximate_methods()} & {*registered_drafters()} == {"big-little"}


def sources() -> Iterator[tuple[Path, ast.Module]]:
    """Yield the product's files, but those in which a method stands."""
    rows = {import_module(module).__file__ for module in method_modules()}
    for folder in (RUNTIME, SDK):
        for path in folder.rglob("*.py"):
            if str(path) not in rows:
                yield path, ast.parse(path.read_text(encoding="utf-8"))


def method_modules() -> Iterator[str]:
    for path in (RUNTIME / "methods").rglob("*.py"):
        if "METHOD = " in path.read_text(encoding="utf-8"):
            yield ".".join(("skipstone.runtime", *path.relative_to(RUNTIME).with_suffix("").parts))


def words_in(node: ast.AST) -> set[str]:
    """Return the methods named by a string, or by the strings of a literal tuple, list, set or of a dict's keys."""
    if isinstance(node, ast.Tuple | ast.List | ast.Set):
        return set().union(*(words_in(part) for part in node.elts))
    if isinstance(node, ast.Dict):
        return set().union(*(words_in(key) for key in node.keys if key is not None))
    return {str(node.value)} & {*WORDS} if isinstance(node, ast.Constant) else set()


def test_every_word_stands_in_a_file_of_its_own() -> None:
    assert sorted(import_module(module).METHOD.name for module in method_modules()) == sorted(WORDS)


def test_no_other_file_compares_a_name_or_lists_several() -> None:
    known_elsewhere = []
    for path, tree in sources():
        for node in ast.walk(tree):
            words = set[str]()
            if isinstance(node, ast.Compare):
                words = set().union(*(words_in(part) for part in (node.left, *node.comparators)))
            elif isinstance(node, ast.Tuple | ast.List | ast.Set | ast.Dict) and len(words_in(node)) > 1:
                words = words_in(node)
            known_elsewhere += [
                (path.name, getattr(node, "lineno", 0), word)
                for word in words
                if (path.name, word) not in OTHER_MEANINGS
            ]
    assert known_elsewhere == []


# Methods of other packages

TOY = """
from skipstone.runtime.decoding import Drafter
from skipstone.runtime.engine import Draft
from skipstone.runtime.methods.method import Method

class Echo(Drafter):
    name = "echo"
    def propose(self, history, *, limit, min_chance=0.0):
        return Draft.chain([history[-1]][:limit], source=self.name)

def open_echo(context):
    return Echo()

METHOD = Method(name="echo", drafts=open_echo, auto_rank=9, text_only=True)
"""


@pytest.fixture
def plug_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Return the entry point file of an installed package, to be filled in."""
    (tmp_path / "toy_echo-1.0.dist-info").mkdir()
    (tmp_path / "toy_echo-1.0.dist-info" / "METADATA").write_text("Name: toy-echo\nVersion: 1.0\n")
    (tmp_path / "toy_echo.py").write_text(TOY)
    monkeypatch.syspath_prepend(tmp_path)
    known_methods.cache_clear()
    yield tmp_path / "toy_echo-1.0.dist-info" / "entry_points.txt"
    known_methods.cache_clear()
    sys.modules.pop("toy_echo", None)


@pytest.mark.parametrize("value", ["open_echo", "METHOD"])
def test_another_package_can_bring_a_drafter_as_a_factory_or_as_a_row(plug_in: Path, value: str, tiny: Model) -> None:
    plug_in.write_text(f"[skipstone.drafters]\necho = toy_echo:{value}\n")
    assert method_named("echo").is_drafter and method_named("echo").text_only is (value == "METHOD")
    model = LanguageModel(tiny)
    made, plain = (model.generate("def f(", decode=decode, max_new_tokens=12) for decode in ("ngram,echo", "plain"))
    assert made.token_ids == plain.token_ids and "echo" in made.stats.drafters


def test_two_methods_of_one_name_are_refused(plug_in: Path) -> None:
    plug_in.write_text("[skipstone.drafters]\nngram = toy_echo:open_echo\n")
    with pytest.raises(ConfigError, match=r"ngram is registered twice, by .*from_text.ngram and toy_echo:open_echo"):
        known_methods()


def test_a_package_that_cannot_be_loaded_says_so_and_disturbs_no_other(plug_in: Path, tiny: Model) -> None:
    plug_in.write_text("[skipstone.drafters]\necho = toy_echo:nothing\n")
    model = LanguageModel(tiny)
    assert model.generate("def f(", decode="ngram", max_new_tokens=4).token_ids
    with pytest.raises(ConfigError, match="echo cannot be loaded from toy_echo:nothing"):
        model.generate("def f(", decode="echo", max_new_tokens=4)
