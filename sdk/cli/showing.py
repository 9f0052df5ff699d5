"""How `skipstone generate` writes what a model makes: as text with colours and figures, or as JSON."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

import typer

from skipstone.cli.drafts import DepthPainter, DraftPainter, speed_line, stats_table
from skipstone.cli.options import Printing
from skipstone.cli.terminal import notes, print_json, print_json_line, visible, write
from skipstone.errors import ConfigError

if TYPE_CHECKING:
    from skipstone.language_model import LanguageModel
    from skipstone.runtime.generation import Generation, Piece
    from skipstone.runtime.methods import Method

__all__ = ["Showing", "write_samples", "write_text"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Showing(Printing):
    """How a text is written, and what is shown beside it."""

    panel: ClassVar[str] = "Output"
    logprobs: Annotated[
        int | None, typer.Option(metavar="N", min=0, help="With --json: the N likeliest tokens at each position.")
    ] = None
    samples: Annotated[int, typer.Option(metavar="N", min=1, help="Texts to make, with the seeds from --seed on.")] = 1
    stream: Annotated[
        bool, typer.Option("--stream", help="With --json: a line of JSON for each piece as it comes.")
    ] = False
    stats: Annotated[bool, typer.Option("--stats", help="Show what each drafter guessed and where the time went.")] = (
        False
    )
    show_drafts: Annotated[bool, typer.Option("--show-drafts", help="Colour guessed tokens by their drafter.")] = False
    show_depth: Annotated[
        bool, typer.Option("--show-depth", help="Colour tokens by the layers that made them, where not all did.")
    ] = False

    def require_possible(self, decode: str, *, complete_words: bool) -> None:
        """Raise ConfigError for figures and colours that do not go together, or not with the method."""
        if self.logprobs is not None and not self.as_json:
            raise ConfigError("--logprobs is shown with --json only; add --json")
        if self.stream and self.samples > 1:
            raise ConfigError("--stream is for one text, and samples come whole; leave one of them out")
        if (self.show_drafts or self.stats) and (self.as_json or self.samples > 1):
            raise ConfigError("--stats and --show-drafts are for one text on the terminal; --json holds all figures")
        if complete_words and (self.show_drafts or self.show_depth):
            raise ConfigError(
                "--show-drafts and --show-depth colour whole tokens, --complete-words begins inside one; leave it out"
            )
        if self.show_depth and (self.as_json or self.samples > 1 or self.show_drafts):
            other = "--json" if self.as_json else "--samples" if self.samples > 1 else "--show-drafts"
            raise ConfigError(f"--show-depth is for one text on the terminal; leave {other} out")
        if self.show_depth and decode not in (shallow := _shallow_methods()):
            known = ", ".join(shallow)
            raise ConfigError(
                f"--show-depth colours what part of the layers made; --decode {decode} uses all, not {known}"
            )

    def painter(self, model: LanguageModel, *, decode: str, last_id: int) -> DraftPainter | DepthPainter | None:
        """Return what colours the tokens behind a prompt that ends with `last_id`, None for plain text."""
        if self.show_depth:
            return DepthPainter(model.runtime, last_id=last_id, little=_shallow_methods()[decode].uses_draft_model)
        return DraftPainter(model.runtime, last_id=last_id) if self.show_drafts else None


def _shallow_methods() -> dict[str, Method]:
    """Return the methods whose tokens may come from part of the layers, or from the draft model alone."""
    from skipstone.runtime.methods import approximate_methods

    return {name: method for name, method in approximate_methods().items() if method.leaves_out_layers}


def write_text(
    model: LanguageModel,
    prompt: str | list[int],
    options: dict[str, Any],
    showing: Showing,
    *,
    why_empty: Callable[[Generation], str | None],
) -> None:
    """Write the text that follows a prompt as it comes, then its figures, and why it is empty where it is."""
    from skipstone.runtime.generation import Generation

    pieces, console = model.stream(prompt, **options), notes(quiet=showing.quiet)
    painter = None
    if not showing.as_json:
        painter = showing.painter(model, decode=options["decode"], last_id=model.encode(prompt)[-1])
    made = Generation.join(list(_written(pieces, painter, model, showing)))
    if showing.as_json and not showing.stream:
        print_json(made.to_json(model.spell))
    if (told := why_empty(made)) is not None:
        console.print(told)
    if showing.as_json:
        return
    if made.finish_reason == "loop":
        console.print("the text fell into a loop and was ended; --stop-loops 0 lets it run")
    console.print(speed_line(made.stats))
    if made.stats.approximate is not None:
        console.print(f"approximate: {made.stats.approximate}")
    if painter is not None:
        console.print(painter.legend())
    if showing.stats:
        console.print(stats_table(made.stats))
        if model.cache_choice is not None:
            console.print(model.cache_choice.told)


def _written(
    pieces: Iterator[Piece], painter: DraftPainter | DepthPainter | None, model: LanguageModel, showing: Showing
) -> Iterator[Piece]:
    """Yield the pieces on, and write each as it comes; only a JSON object of all of them is written later."""
    for piece in pieces:
        if not showing.as_json:
            write(visible(piece.text) if painter is None else painter.paint(piece))
        elif showing.stream:
            print_json_line(piece.to_json(model.spell))
        yield piece
    if not showing.as_json:
        write("\n")


def write_samples(model: LanguageModel, made: Iterator[Generation], showing: Showing) -> None:
    """Write several texts of a prompt, each with its seed and speed."""
    if showing.as_json:
        print_json([generation.to_json(model.spell) for generation in made])
        return
    console = notes(quiet=showing.quiet)
    for generation in made:
        console.print(f"seed {generation.stats.seed}: {speed_line(generation.stats)}")
        if generation.stats.approximate is not None:
            console.print(f"approximate: {generation.stats.approximate}")
        write(generation.text + "\n")
