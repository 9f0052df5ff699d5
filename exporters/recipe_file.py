"""A recipe from a file: what people write, or what a bundle says of itself."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Self

from skipstone.errors import ConfigError
from skipstone.quant import Recipe, RotationRecipe, ScaleRecipe, TensorRecipe
from skipstone.runtime.bundle import MANIFEST_NAME, DataError, parse_json, read_typed

__all__ = ["RecipeFile", "check_patterns"]

_SMALL_BLOCKS: Final = 32  # where a rule does not say it


@dataclass(frozen=True, slots=True, kw_only=True)
class RecipeFile:
    """A recipe, and what else of an export stands beside it in a bundle.

    `text` is what to calibrate with where the user does not say it, windows chosen by `seed`. `keep_integers`: those of
    the checkpoint stay. `target` is whose operators a bundle had that the recipe comes from.
    """

    recipe: Recipe
    text: str | None = None
    seed: int = 0
    keep_integers: bool = False
    target: str = "ort"

    @classmethod
    def read(cls, source: str | Path | Mapping[str, object]) -> Self:
        """Return the recipe in a file of JSON, in a bundle or its manifest, or in such data.

        Raises: ConfigError, in one line, with the field that is wrong.
        """
        name = "the recipe" if isinstance(source, Mapping) else f"recipe {source}"
        try:
            data = parse_json(json.dumps(dict(source)) if isinstance(source, Mapping) else _read(Path(source)))
            if isinstance(data, dict) and "format_version" in data:
                data = data.get("recipe")
            form = read_typed(_Form, _with_defaults(data), name="it")
            return cls(
                recipe=Recipe(
                    name=form.name,
                    rules=tuple(_rule(number, rule) for number, rule in enumerate(form.rules)),
                    rotation=form.rotation,
                    scales=form.scales,
                ),
                text=None if form.calibration is None else form.calibration.text,
                seed=0 if form.calibration is None else form.calibration.seed,
                keep_integers=form.keep_integers,
                target=form.target,
            )
        except (DataError, ValueError, TypeError) as error:
            raise ConfigError(f"{name} cannot be read: {error}") from error

    def check_target(self, target: str) -> None:
        """Raise ConfigError where the recipe is that of a bundle for another target: there are other kernels."""
        if self.target not in ("ort", target):
            raise ConfigError(
                f"recipe {self.recipe.name} is that of a bundle for --target {self.target}: add this option, or take "
                "'target' out"
            )


def check_patterns(recipe: Recipe, names: Iterable[str]) -> None:
    """Raise ConfigError for a pattern that matches none of a model's matrices."""
    known = [*names]
    for pattern in recipe.unused_patterns(known):
        some = ", ".join(dict.fromkeys(_in_general(name) for name in known))
        raise ConfigError(f"recipe {recipe.name}: {pattern!r} matches no matrix of this model, which has {some}")


def _in_general(name: str) -> str:
    first, *others = name.split(".")
    return ".".join((first, "*", *others[1:])) if first == "layers" else name


def _read(path: Path) -> bytes:
    file = path / MANIFEST_NAME if path.is_dir() else path
    try:
        return file.read_bytes()
    except OSError as error:
        raise ConfigError(
            f"recipe {path} cannot be read: {error.strerror}; give a file of JSON, or a bundle"
        ) from error


@dataclass(frozen=True, slots=True, kw_only=True)
class _Calibration:
    """What a bundle was calibrated with; the last two are figures of that run."""

    text: str
    seed: int
    num_tokens: int
    matrices: int


@dataclass(frozen=True, slots=True, kw_only=True)
class _Form:
    """The fields of the file, all there; the last two are figures of a bundle."""

    name: str
    rules: tuple[Mapping[str, object], ...]
    rotation: RotationRecipe | None
    scales: ScaleRecipe | None
    calibration: _Calibration | None
    keep_integers: bool
    target: str
    kept_integers: int
    kept_kinds: object


def _rule(number: int, fields: Mapping[str, object]) -> tuple[str, TensorRecipe]:
    """Return the pattern of a rule and what it says. Raises: DataError, ValueError."""
    pattern, others = fields.get("pattern"), {key: value for key, value in fields.items() if key != "pattern"}
    if not isinstance(pattern, str):
        raise DataError(f"rules[{number}].pattern: a string is wanted, such as 'layers.*.down'")
    name = f"the rule for {pattern!r}"
    try:
        return pattern, read_typed(TensorRecipe, others, name=name)
    except (DataError, ValueError) as error:
        raise DataError(str(error) if name in str(error) else f"{name}: {error}") from error


def _with_defaults(data: Any) -> Any:
    """Return the data with what it may leave out; what has another form stays, and is refused by the reader."""
    if not isinstance(data, Mapping):
        return data
    whole = {
        **dict.fromkeys(("rotation", "scales", "calibration", "kept_kinds")),
        **{"keep_integers": False, "target": "ort", "kept_integers": 0},
        **data,
    }
    for name, defaults in _DEFAULTS.items():
        if isinstance(whole[name], Mapping):
            whole[name] = {**defaults, **whole[name]}
    if isinstance(rules := whole.get("rules"), list | tuple):
        whole["rules"] = [_rule_with_defaults(rule) for rule in rules]
    return whole


_DEFAULTS: Final[Mapping[str, Mapping[str, object]]] = {
    "rotation": {"seed": 0, "heads": True},
    "scales": {"alphas": []},
    "calibration": {"seed": 0, "num_tokens": 0, "matrices": 0},
}


def _rule_with_defaults(rule: Any) -> Any:
    """Few bits have zero points."""
    if not isinstance(rule, Mapping):
        return rule
    symmetric = rule.get("bits") not in (2, 4)
    return {"block_size": _SMALL_BLOCKS, "symmetric": symmetric, "method": "search", "outliers": 0, **rule}
