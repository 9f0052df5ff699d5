"""What an export may be asked for, beside the checkpoint itself: one frozen record, checked when it is made."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal, TypedDict, Unpack

from skipstone.errors import ConfigError
from skipstone.exporters.buckets import check_buckets
from skipstone.exporters.graph import TARGETS, Kernels
from skipstone.exporters.recipe_file import RecipeFile
from skipstone.exporters.stages import check_draft_head, check_layers
from skipstone.exporters.transforms import FfnWidth, Lora, Rotation, Transform
from skipstone.option_types import check_fields, checks_arguments
from skipstone.quant import Recipe

__all__ = ["SMALL_MODEL", "ExportKeywords", "ExportOptions", "PlanKeywords", "Precision", "default_recipe"]

Precision = Literal["int4", "int4-fast", "int8", "fp32"]
SMALL_MODEL: Final = 400_000_000
"""Weights of the least model whose default is 4 bits: of smaller ones they lose too much without a text."""


class _SameKeywords(TypedDict, total=False):
    """The keywords that are fields of `ExportOptions` as they are."""

    exits: str
    cuts: str
    revision: str | None
    draft_head: str | int | None
    exit_adapters: str | Path
    target: str
    prefill: Literal["int8"] | None
    buckets: str | None


class ExportKeywords(_SameKeywords, total=False):
    """All keywords of `ExportOptions.of`, for functions that pass them on."""

    precision: Precision | None
    group_size: int | None
    recipe: str | Path | Mapping[str, object] | RecipeFile | None
    lora: str | Path | None
    ffn_width: str | None
    transforms: Iterable[Transform]


class PlanKeywords(ExportKeywords, total=False):
    """All keywords of `skipstone.api.plan`: the draft model is a checkpoint with a plan of its own."""

    draft_model: str | Path | None
    draft_model_precision: Precision | None
    drafter: str | Path | None
    drafter_precision: Precision | None
    via: Literal["optimum"] | None


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportOptions:
    """How one checkpoint becomes a bundle; by default it is the whole model, in one piece.

    `recipe` None is `default_recipe`; with `is_own_recipe` all its patterns must match something. `keep_integers`: all
    integers of the checkpoint go into the bundle, and the recipe is for numbers; else, and where `transforms` change
    the model, only those that lie in blocks as ours do.
    `exits` is `none`, `auto` or layer numbers like `4,8`, after which the model may stop; `cuts` is `none`, `each` or
    layer numbers, after which stages end too. `revision` is a branch, tag or commit of a checkpoint on the hub.
    `transforms` change the model before its graph is written, one after the other. `draft_head` is `auto` or how many
    tokens the head for drafts knows, None for no such head. `exit_adapters` is a file that `train-exits` made, `none`,
    or `auto`: the one in the checkpoint's folder, if any. `target` is what the graphs are for, a name in `TARGETS`.
    `prefill` is how the weights of graphs that read prompts are stored; None is no such graphs. `buckets` are the sizes
    of graphs of fixed shapes, see `plan_buckets`. Raises: ConfigError for what is right for no model at all.
    """

    recipe: Recipe | None = None
    is_own_recipe: bool = False
    keep_integers: bool = False
    exits: str = "none"
    cuts: str = "none"
    revision: str | None = None
    transforms: tuple[Transform, ...] = ()
    draft_head: str | int | None = None
    exit_adapters: str | Path = "auto"
    target: str = "ort"
    prefill: Literal["int8"] | None = None
    buckets: str | None = None

    def __post_init__(self) -> None:
        check_fields(self)
        if self.target not in TARGETS:
            raise ConfigError(f"--target {self.target} is not known; choose one of {', '.join(TARGETS)}")
        if self.prefill is not None and not TARGETS[self.target].has_prefill:
            raise ConfigError(
                f"--prefill {self.prefill} takes onnxruntime's operators: leave --target or --prefill out"
            )
        self._check_fixed(TARGETS[self.target])
        check_layers(self.exits, option="--exits", word="auto")
        check_layers(self.cuts, option="--cuts", word="each")
        if self.draft_head is not None:
            check_draft_head(self.draft_head)
        for transform in self.transforms:
            if not isinstance(transform, Transform):
                raise ConfigError(f"{transform!r} is no transform: pass objects of a class derived from Transform")

    def _check_fixed(self, kernels: type[Kernels]) -> None:
        """Raise ConfigError for what does not go with graphs of fixed shapes, or with free ones."""
        if not kernels.has_buckets:
            if self.buckets is not None:
                raise ConfigError(f"--target {self.target} takes any shape: leave --buckets out")
            return
        if self.buckets is not None:
            check_buckets(self.buckets)
        if self.draft_head is not None:
            raise ConfigError(
                f"--target {self.target} has no draft head, which asks for some tokens' rows: leave it out"
            )
        if kernels.least_bits == 32 and self.recipe is not None and self.recipe.kl_bound:
            raise ConfigError(
                f"--target {self.target} stores numbers, no integers: leave --precision and --recipe out, or take "
                "--precision fp32"
            )

    @classmethod
    @checks_arguments
    def of(
        cls,
        *,
        precision: Precision | None = None,
        group_size: int | None = None,
        recipe: str | Path | Mapping[str, object] | RecipeFile | None = None,
        lora: str | Path | None = None,
        ffn_width: str | None = None,
        transforms: Iterable[Transform] = (),
        **fields: Unpack[_SameKeywords],
    ) -> ExportOptions:
        """Return the options that are called so in `skipstone.export` and on the command line.

        `precision` and `group_size` choose a recipe, `group_size` alone `int4`, or `recipe` is one of the user's.
        Without a precision integers are kept. The transforms of `lora` and `ffn_width` come before the others.
        Raises: ConfigError.
        """
        named = (
            *(() if lora is None else (Lora(Path(lora)),)),
            *(() if ffn_width is None else (FfnWidth(ffn_width),)),
        )
        whole = (*named, *transforms)
        if recipe is not None:
            if precision is not None or group_size is not None:
                raise ConfigError("--recipe says bits and blocks itself; leave --precision and --group-size out")
            own = recipe if isinstance(recipe, RecipeFile) else RecipeFile.read(recipe)
            own.check_target(fields.get("target", "ort"))
            return cls(
                recipe=own.recipe, is_own_recipe=True, keep_integers=own.keep_integers, transforms=whole, **fields
            )
        chosen = None
        try:
            if precision is not None or group_size is not None:
                chosen = Recipe.named(precision or "int4", group_size=group_size)
        except ValueError as error:
            raise ConfigError(str(error)) from error
        return cls(recipe=chosen, keep_integers=precision is None, transforms=whole, **fields)

    @property
    def all_transforms(self) -> tuple[Transform, ...]:
        """The transforms, and then the rotation of the recipe."""
        rotation = None if self.recipe is None else self.recipe.rotation
        return (*self.transforms, *(() if rotation is None else (Rotation(rotation.seed, rotation.heads),)))


def default_recipe(num_weights: int, *, brings_integers: bool = False) -> Recipe:
    """Return the recipe where none was asked for: `int8` for numbers of a small model, else `int4`."""
    return Recipe.named("int8" if num_weights < SMALL_MODEL and not brings_integers else "int4")
