"""A family that has no table of ours: optimum traces the model, and its graph becomes a bundle of one stage."""

from __future__ import annotations

import functools
import math
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any, ClassVar, Final, Literal

import onnx_ir as ir

from skipstone.errors import BundleError, CheckpointError, ConfigError, UnsupportedModel
from skipstone.exporters.checkpoints import (
    Checkpoint,
    TokenRoles,
    open_checkpoint,
    read_sampling,
    require_plausible,
    with_rows,
)
from skipstone.exporters.graph import WeightFile
from skipstone.exporters.optimum.graph import WrappedGraph
from skipstone.exporters.optimum.process import require_optimum, run_optimum
from skipstone.exporters.optimum.weights import store_weights
from skipstone.exporters.options import ExportOptions, default_recipe
from skipstone.quant import Recipe
from skipstone.runtime.bundle import (
    TRACED_OPERATORS,
    BundleWriter,
    Check,
    Dimensions,
    GraphOutline,
    Manifest,
    Provenance,
    SigningKey,
    StageEntry,
    finish,
    require_operators,
)

__all__ = ["WrappedPlan", "plan_wrapped"]

STAGE_FILE = "stage-00.onnx"
WEIGHTS_FILE = "weights.bin"
CHANGING_ROTARY: Final = ("dynamic", "longrope", "su")
# What config.json may call a size; the first that it has is taken.
_KEYS: Final[Mapping[str, tuple[str, ...]]] = {
    "hidden size": ("hidden_size", "n_embd", "d_model"),
    "number of heads": ("num_attention_heads", "n_head", "n_heads", "num_heads"),
    "context length": ("max_position_embeddings", "n_positions", "max_seq_len", "seq_length", "n_ctx"),
    "width of the FFN": ("intermediate_size", "ffn_dim", "n_inner", "ffn_hidden_size"),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class WrappedPlan:
    """An export through optimum that has been checked as far as the settings tell; it has what `ExportPlan` has too."""

    checkpoint: Checkpoint
    recipe: Recipe
    remarks: tuple[str, ...] = ()
    num_kept: int = 0
    is_as_shipped: ClassVar[Literal[True]] = True
    """transformers reads the folder itself."""

    @property
    def settings(self) -> Mapping[str, Any]:
        """config.json of the model."""
        return self.checkpoint.config

    @property
    def work(self) -> tuple[None, float]:
        """Nothing that can be counted: optimum reads the checkpoint."""
        return None, 0.0

    def write(
        self,
        target: Path,
        *,
        force: bool = False,
        command: str = "",
        check: Check | None = None,
        sign: SigningKey | None = None,
        on_progress: Callable[[int], None] = lambda num_parameters: None,
    ) -> None:
        """Write the graph that optimum makes of a checkpoint as a bundle to `target`, whole or not at all.

        Products with matrices are stored as the recipe says, embeddings in float32. The parameters are as those of
        `ExportPlan.write`; `on_progress` is never called.
        Cost: the whole model in memory, and on disk once more while it works. Raises: UnsupportedModel when optimum
        does not know the family or its graph cannot decode; CheckpointError; OutputError.
        """
        with BundleWriter(target, force=force, sign=sign) as writer:
            make_manifest = _write_files(self, writer.path, command)
            finish(writer, lambda files, figures: make_manifest(files=files, check=figures), check)


def plan_wrapped(source: str | Path, options: ExportOptions, *, draft_model: str | Path | None = None) -> WrappedPlan:
    """Return the checked plan, no weight read.

    Raises: ConfigError without optimum, for a checkpoint in one file, for a draft model and for options other than the
    recipe and the revision; CheckpointError; UnsupportedModel.
    """
    _refuse_options(options, draft_model)
    require_optimum()
    checkpoint = open_checkpoint(source, revision=options.revision)
    require_plausible(checkpoint)
    if not checkpoint.path.is_dir():
        raise ConfigError(f"optimum reads folders in the format of Hugging Face, and {checkpoint.source} is a file")
    if checkpoint.remarks and not checkpoint.is_usual:
        raise ConfigError(
            f"optimum reads {checkpoint.source} as it stands, but {checkpoint.remarks[0]}: leave --via optimum out, or "
            "save the model anew with transformers' save_pretrained"
        )
    _require_readable(checkpoint.config)
    tensors = checkpoint.tensors
    num_weights = sum(math.prod(tensors.shape(name)) for name in tensors.names())
    return WrappedPlan(checkpoint=checkpoint, recipe=options.recipe or default_recipe(num_weights))


def _refuse_options(options: ExportOptions, draft_model: str | Path | None) -> None:
    """Raise ConfigError for the first option that would change the graph: it stays as optimum makes it."""
    refused = [*map(str, options.all_transforms)] + ([] if draft_model is None else [f"draft-model {draft_model}"])
    for field in fields(options):
        value = getattr(options, field.name)
        if (
            field.name not in ("recipe", "is_own_recipe", "keep_integers", "revision", "transforms")
            and value != field.default
        ):
            refused.append(f"{field.name.replace('_', '-')} {value}")
    if refused:
        raise ConfigError(f"{refused[0]} does not go with optimum, whose graph stays as it is: leave it out")


def _require_readable(config: Mapping[str, Any]) -> None:
    """Raise UnsupportedModel where what optimum makes would be another model."""
    for scaling in (config.get("rope_scaling"), config.get("rope_parameters")):
        kind = scaling.get("rope_type", scaling.get("type")) if isinstance(scaling, dict) else None
        if kind in CHANGING_ROTARY:
            raise UnsupportedModel(f"rope type {kind!r} changes with the length of the text; a traced graph does not")
    installed = version("transformers")
    if config.get("rope_parameters") is not None and int(installed.partition(".")[0]) < 5:
        raise UnsupportedModel(
            f"config.json has rope_parameters, which the transformers {installed} of optimum overlooks: put its "
            "rope_theta and partial_rotary_factor beside the other settings and the rest into rope_scaling"
        )


def _write_files(plan: WrappedPlan, folder: Path, command: str) -> Callable[..., Manifest]:
    """Write all but the manifest; return what makes it of `files`."""
    traced = folder / "optimum"
    file = _trace(plan.checkpoint, traced)
    model = ir.load(file)
    graph = WrappedGraph.read(model.graph)
    plan = replace(plan, checkpoint=with_rows(plan.checkpoint, vocab_size=graph.vocab_size))
    make_manifest = _manifest_maker(plan, graph, command)
    graph.require_same_in_pieces(file)
    with WeightFile(folder / WEIGHTS_FILE) as weights:
        store_weights(model, plan.recipe, weights)
    ir.save(model, folder / STAGE_FILE)
    try:
        require_operators(GraphOutline.read(folder / STAGE_FILE), TRACED_OPERATORS)
    except BundleError as error:
        raise UnsupportedModel(f"the graph that optimum makes cannot go into a bundle: {error}") from error
    shutil.rmtree(traced)
    for name, content in plan.checkpoint.texts.items():
        (folder / name).write_bytes(content)
    return make_manifest


def _trace(checkpoint: Checkpoint, folder: Path) -> Path:
    """Return the graph that optimum writes to `folder`, with its weights beside it."""
    try:
        run_optimum(checkpoint.path, folder)
    except RuntimeError as error:
        raise UnsupportedModel(f"optimum cannot export {checkpoint.source}: {error}") from error
    if not (folder / "model.onnx").is_file():
        found = ", ".join(sorted(path.name for path in folder.glob("*.onnx"))) or "no graph"
        raise UnsupportedModel(f"optimum makes {found} of {checkpoint.source}; one model.onnx is wanted, a decoder")
    return folder / "model.onnx"


def _manifest_maker(plan: WrappedPlan, graph: WrappedGraph, command: str) -> Callable[..., Manifest]:
    """Return what makes the manifest of `files`; all else is looked up and checked now."""
    checkpoint = plan.checkpoint
    dimensions = _dimensions(checkpoint.config, graph)
    roles = TokenRoles.read(checkpoint, vocab_size=graph.vocab_size)
    stage = StageEntry(
        file=STAGE_FILE, first_layer=0, end_layer=dimensions.num_layers, embeds=True, ends_in_logits=True
    )
    return functools.partial(
        Manifest,
        family=str(checkpoint.config.get("model_type")),
        graph="optimum",
        exact=False,
        dimensions=dimensions,
        context_length=_size(checkpoint.config, "context length"),
        stages=(stage,),
        head=None,
        exits=(),
        cache=graph.layers,
        recipe=plan.recipe.to_json(),
        bos_id=roles.bos_id,
        stop_ids=roles.stop_ids,
        stop_sources=roles.ends,
        sampling=read_sampling(checkpoint)[0],
        special_ids=roles.special_ids,
        provenance=Provenance(source=checkpoint.source, tool_version=version("skipstone"), command=command),
    )


def _dimensions(config: Mapping[str, Any], graph: WrappedGraph) -> Dimensions:
    """Return the sizes of the model: those of the cache and the vocabulary from the graph, the others as stated."""
    hidden_size = _size(config, "hidden size")
    return Dimensions(
        vocab_size=graph.vocab_size,
        hidden_size=hidden_size,
        # Where it is not stated it is four times the hidden size, by convention.
        intermediate_size=_size(config, "width of the FFN", default=4 * hidden_size),
        num_layers=len(graph.layers),
        num_heads=_size(config, "number of heads"),
        num_kv_heads=graph.layers[0].num_heads,
        head_size=graph.layers[0].head_size,
    )


def _size(config: Mapping[str, Any], what: str, *, default: int | None = None) -> int:
    """Return a size that families call by several names. Raises: CheckpointError when config.json has none of them."""
    for key in _KEYS[what]:
        value = config.get(key)
        if type(value) is int and value >= 1:
            return value
    if default is None:
        raise CheckpointError(f"config.json does not state the {what}: add one of {', '.join(_KEYS[what])}")
    return default
