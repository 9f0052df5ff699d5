"""Fixed prompts in categories, to compare decoding methods on."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from pathlib import Path

from skipstone.errors import ConfigError

__all__ = ["Category", "Prompt", "Suite", "bench_texts"]


SUITES = Path(__file__).parents[1] / "suites"
INDEX = "suite.toml"


@dataclass(frozen=True, slots=True, kw_only=True)
class Prompt:
    """A text to continue."""

    name: str
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Category:
    """Prompts of one kind. An `adversarial` one offers drafters nothing, and stays out of the usual mean."""

    name: str
    about: str
    prompts: tuple[Prompt, ...]
    adversarial: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Suite:
    """Categories in the order in which they are run and shown."""

    name: str
    categories: tuple[Category, ...]

    @classmethod
    def named(cls, name: str) -> Suite:
        """Return one of the suites that come with the package. Raises: ConfigError for an unknown name."""
        known = sorted(path.parent.name for path in SUITES.glob(f"*/{INDEX}"))
        if name not in known:
            raise ConfigError(f"suite {name!r} is not known; known are {', '.join(known)}")
        index = tomllib.loads((SUITES / name / INDEX).read_text(encoding="utf-8"))
        categories = tuple(
            Category(
                name=entry["name"],
                about=entry["about"],
                prompts=tuple(_read(SUITES / name / file) for file in entry["files"]),
                adversarial=entry.get("adversarial", False),
            )
            for entry in index["categories"]
        )
        return cls(name=index["name"], categories=categories)

    @property
    def num_prompts(self) -> int:
        return sum(len(category.prompts) for category in self.categories)


def _read(file: Path) -> Prompt:
    """Return the prompt in a file, whose last line break is no part of it."""
    return Prompt(name=file.stem, text=file.read_text(encoding="utf-8").removesuffix("\n"))


def bench_texts() -> list[str]:
    """Return the prompts of `bench`, which stand in where no text is given."""
    return [prompt.text for category in Suite.named("code").categories for prompt in category.prompts]
