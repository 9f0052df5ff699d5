"""A checkpoint becomes a bundle: check everything, then write graph by graph and weight by weight, then show it."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from difflib import get_close_matches
from importlib.metadata import version
from pathlib import Path
from typing import Any, TypeAlias

import onnx_ir as ir
import tokenizers

from skipstone.errors import CheckpointError, UnsupportedModel
from skipstone.exporters.architecture import Architecture
from skipstone.exporters.checkpoint import Checkpoint
from skipstone.exporters.experts import EXACT_BLOCKS
from skipstone.exporters.families import read_architecture
from skipstone.exporters.lora import merged
from skipstone.exporters.model_weights import ModelWeights, kernel_head_size
from skipstone.exporters.narrow import narrowed
from skipstone.exporters.pair import check_pair
from skipstone.exporters.stages import build_head, build_stage, parse_exits, plan_stages
from skipstone.exporters.tensors import StoredTensors
from skipstone.exporters.weights import WeightFile
from skipstone.quant import Recipe
from skipstone.runtime.bundle import BundleWriter, write_manifest
from skipstone.runtime.manifest import MANIFEST_NAME, FileEntry, LayerCache, Manifest, Provenance, StageEntry

__all__ = ["ExportPlan", "plan_export", "write_bundle"]

Check: TypeAlias = Callable[[Path], Mapping[str, object]]

WEIGHTS_FILE = "weights.bin"
HEAD_FILE = "head.onnx"
DRAFTER_FOLDER = "drafter"


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportPlan:
    """An export that is checked as far as the checkpoint's headers tell; `remarks` say what is not as asked for."""

    checkpoint: Checkpoint
    architecture: Architecture
    recipe: Recipe
    stages: tuple[StageEntry, ...]
    drafter: ExportPlan | None = None
    remarks: tuple[str, ...] = ()

    @property
    def models(self) -> tuple[ExportPlan, ...]:
        """This plan, and the drafter's where there is one."""
        return (self,) if self.drafter is None else (self, self.drafter)

    @property
    def stop_ids(self) -> tuple[int, ...]:
        return _ids(_settings(self.checkpoint).get("eos_token_id"))

    @property
    def is_as_shipped(self) -> bool:
        """Whether the weights are those of a folder of Hugging Face: not merged, narrowed or read from integers."""
        a = self.architecture
        return isinstance(self.checkpoint.tensors, StoredTensors) and a.ffn_widths == a.stored_widths

    @property
    def num_integers(self) -> int:
        """How many matrices the checkpoint stores as integers that we read as such."""
        tensors = self.checkpoint.tensors
        return sum(tensors.is_quantized(name) for name in self.architecture.tensor_shapes())

    @property
    def num_kept(self) -> int:
        """How many of them go into the bundle as they are."""
        return 0 if self.architecture.transposed else self.num_integers

    @property
    def is_exact(self) -> bool:
        """Whether rows fed in pairs give the same bits: not with experts, unless in small blocks."""
        if self.architecture.experts is None:
            return True
        rule = self.recipe.for_tensor("layers.0.experts")
        return not self.num_integers and rule.block_size <= EXACT_BLOCKS.get(rule.bits, 0)

    @property
    def exits(self) -> tuple[int, ...]:
        return tuple(stage.end_layer for stage in self.stages[:-1])

    @property
    def num_parameters(self) -> int:
        """Weights of the checkpoint, without those of the drafter."""
        return sum(math.prod(shape) for shape in self.architecture.tensor_shapes().values())


def plan_export(
    source: str | Path,
    recipe: Recipe,
    *,
    exits: str = "none",
    revision: str | None = None,
    drafter: ExportPlan | None = None,
    lora: Path | None = None,
    ffn_width: str | None = None,
) -> ExportPlan:
    """Return the checked plan, no weight read; with `drafter`, the two become one bundle.

    `lora` is the folder of an adapter that is merged into the weights. `ffn_width` is the inner width of all FFNs, or
    of each, apart by commas: the first channels of wider ones are taken.
    Raises: CheckpointError, UnsupportedModel, ConfigError.
    """
    checkpoint = Checkpoint.open(source, revision=revision)
    architecture = read_architecture(checkpoint.config, checkpoint.tensors.names())
    _require_tensors(checkpoint, architecture)
    if lora is not None:
        names = architecture.names
        tied = (names["embedding"], names["head"]) if architecture.tied_embedding else None
        checkpoint = replace(checkpoint, tensors=merged(checkpoint.tensors, lora, tied=tied))
    if ffn_width is not None:
        architecture = narrowed(architecture, checkpoint.tensors, ffn_width)
    _require_tokenizer(checkpoint, architecture)
    _require_ids(checkpoint, architecture)
    num_layers = architecture.dimensions.num_layers
    stages = plan_stages(num_layers, parse_exits(exits, num_layers))
    if len(stages) > 1 and architecture.altup is not None:
        raise UnsupportedModel(
            f"{architecture.family} has no exits: its streams and the inputs of its layers do not pass between stages; "
            "leave out --exits"
        )
    plan = ExportPlan(checkpoint=checkpoint, architecture=architecture, recipe=recipe, stages=stages)
    plan = replace(plan, remarks=_remarks(plan))
    if drafter is None:
        return plan
    return replace(plan, drafter=drafter, remarks=(*plan.remarks, *check_pair(plan, drafter)))


def _remarks(plan: ExportPlan) -> tuple[str, ...]:
    """Say what becomes of matrices that are stored as integers."""
    kept, rounded = plan.num_kept, plan.num_integers - plan.num_kept
    remarks = []
    if kept:
        remarks.append(f"{kept} matrices keep their integers; {plan.recipe.name} is for the others")
    if rounded:
        remarks.append(f"{rounded} matrices of integers lie the other way round: they are rounded again")
    return tuple(remarks)


def _require_tensors(checkpoint: Checkpoint, architecture: Architecture) -> None:
    """Raise CheckpointError for the first tensor that is missing or has another shape than config.json says."""
    present = checkpoint.tensors.names()
    for name, shape in architecture.tensor_shapes().items():
        if name not in present:
            near = get_close_matches(name, present, n=1)
            hint = f"; the nearest is {near[0]}" if near else ""
            raise CheckpointError(f"{checkpoint.source} lacks the tensor {name}{hint}")
        if checkpoint.tensors.shape(name) != shape:
            found = checkpoint.tensors.shape(name)
            raise CheckpointError(f"{name} has shape {found}, but config.json asks for {shape}")


def _require_tokenizer(checkpoint: Checkpoint, architecture: Architecture) -> None:
    try:
        tokenizer = tokenizers.Tokenizer.from_buffer(checkpoint.texts["tokenizer.json"])
    except Exception as error:  # the library raises plain Exception
        raise CheckpointError(f"tokenizer.json of {checkpoint.source} is not a tokenizer: {error}") from error
    size, limit = tokenizer.get_vocab_size(), architecture.dimensions.vocab_size
    if size > limit:
        raise CheckpointError(f"tokenizer.json has {size} tokens, but the model's vocabulary is {limit}")


def _require_ids(checkpoint: Checkpoint, architecture: Architecture) -> None:
    """Raise CheckpointError for a first or last token that the model does not have."""
    limit = architecture.dimensions.vocab_size
    for key in ("bos_token_id", "eos_token_id"):
        for token_id in _ids(_settings(checkpoint).get(key)):
            if type(token_id) is not int or not 0 <= token_id < limit:
                raise CheckpointError(f"{key} {token_id!r} is not a token of the model, whose vocabulary is {limit}")


def write_bundle(
    plan: ExportPlan,
    target: Path,
    *,
    force: bool = False,
    command: str = "",
    check: Check | None = None,
    on_progress: Callable[[int], None] = lambda num_parameters: None,
) -> None:
    """Write the bundle to `target`, whole or not at all; `on_progress` gets the parameters read since its last call.

    `check` gets the finished bundle in a hidden place, before it is shown, and returns figures for the manifest; where
    it raises, nothing appears.
    Raises: OutputError when the place is taken and not `force`, or cannot be written; CheckpointError for bad weights.
    """
    with BundleWriter(target, force=force) as writer:
        _write_files(plan, writer.path, on_progress)
        if (drafter := plan.drafter) is not None:
            folder = writer.path / DRAFTER_FOLDER
            folder.mkdir()
            _write_files(drafter, folder, on_progress)
            write_manifest(folder, lambda files: _manifest(drafter, files, command))
        figures = None
        if check is not None:
            write_manifest(writer.path, lambda files: _manifest(plan, files, command))
            figures = check(writer.path)
            (writer.path / MANIFEST_NAME).unlink()
        writer.finish(lambda files: _manifest(plan, files, command, figures))


def _write_files(plan: ExportPlan, folder: Path, on_progress: Callable[[int], None]) -> None:
    _write_graphs(plan, folder, on_progress)
    for name, content in plan.checkpoint.texts.items():
        (folder / name).write_bytes(content)


def _write_graphs(plan: ExportPlan, folder: Path, on_progress: Callable[[int], None]) -> None:
    weights = ModelWeights(plan.architecture, plan.checkpoint.tensors, on_progress)
    with WeightFile(folder / WEIGHTS_FILE) as file:
        for stage in plan.stages:
            ir.save(build_stage(stage, plan.architecture, weights, plan.recipe, file), folder / stage.file)
        if plan.exits:
            ir.save(build_head(plan.architecture, weights, plan.recipe, file), folder / HEAD_FILE)


def _manifest(
    plan: ExportPlan, files: Mapping[str, FileEntry], command: str, check: Mapping[str, object] | None = None
) -> Manifest:
    architecture, d = plan.architecture, plan.architecture.dimensions
    head_size = kernel_head_size(d.head_size)
    settings = _settings(plan.checkpoint)
    bos_ids, stop_ids = _ids(settings.get("bos_token_id")), plan.stop_ids
    # Padding is never fed, and some checkpoints say -1 where they have none.
    pad_ids = [token_id for token_id in _ids(settings.get("pad_token_id")) if 0 <= token_id < d.vocab_size]
    return Manifest(
        family=architecture.family,
        dimensions=d,
        context_length=architecture.context_length,
        stages=plan.stages,
        head=HEAD_FILE if plan.exits else None,
        exits=plan.exits,
        cache=tuple(
            LayerCache(num_heads=d.num_kv_heads, head_size=head_size, dtype="float32", window=window)
            for window in architecture.windows[: architecture.num_caches]
        ),
        recipe={**plan.recipe.to_json(), **({"kept_integers": plan.num_kept} if plan.num_kept else {})},
        bos_id=bos_ids[0] if bos_ids else None,
        stop_ids=stop_ids,
        special_ids=tuple(sorted({*bos_ids, *stop_ids, *pad_ids})),
        provenance=Provenance(source=plan.checkpoint.source, tool_version=version("skipstone"), command=command),
        files=files,
        long_rope_from=architecture.switch_after,
        exact=plan.is_exact,
        check=check,
        drafter=None if plan.drafter is None else DRAFTER_FOLDER,
    )


def _settings(checkpoint: Checkpoint) -> dict[str, Any]:
    return {**checkpoint.config, **checkpoint.generation_config}


def _ids(value: object) -> tuple[int, ...]:
    """Return the token ids that config.json gives as a number, a list or nothing."""
    if value is None:
        return ()
    return tuple(value) if isinstance(value, list) else (value,)  # type: ignore[return-value]
