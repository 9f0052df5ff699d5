"""A checkpoint becomes a bundle: check everything, then write graph by graph and weight by weight, then show it."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any, TypeAlias

import onnx_ir as ir

from skipstone.errors import ConfigError, UnsupportedModel
from skipstone.exporters.buckets import plan_buckets
from skipstone.exporters.checkpoints import (
    Checkpoint,
    ExitAdapters,
    TokenRoles,
    adapters_for,
    left_out,
    open_checkpoint,
    read_sampling,
    require_plausible,
    require_tensors,
    sampling_remarks,
    with_rows,
    with_stored_biases,
    with_stored_head,
)
from skipstone.exporters.families import Architecture, read_architecture
from skipstone.exporters.graph import (
    EXACT_BLOCKS,
    PLAIN,
    PREFILL_GRAPHS,
    TARGETS,
    BucketGraphs,
    CacheScales,
    GraphVariant,
    Kernels,
    ModelWeights,
    Rounder,
    WeightFile,
    build_draft_head,
    build_exit,
    build_head,
    build_stage,
    kernel_head_size,
    matrix_names,
    ring_layout,
    rounded,
    write_variant,
)
from skipstone.exporters.kept_integers import KeptKind, kept_kinds, with_numbers
from skipstone.exporters.options import ExportOptions, default_recipe
from skipstone.exporters.recipe_file import check_patterns
from skipstone.exporters.stages import parse_cuts, parse_draft_head, parse_exits, plan_stages
from skipstone.exporters.transforms import CarveExperts, GainFolding, Transform, apply
from skipstone.quant import Recipe
from skipstone.runtime.bundle import (
    MANIFEST_NAME,
    SPARSE,
    Buckets,
    BundleWriter,
    Check,
    ExpertsEntry,
    FileEntry,
    LayerCache,
    Manifest,
    Provenance,
    SigningKey,
    StageEntry,
    Variants,
    finish,
    write_manifest,
)

__all__ = ["ExportPlan", "plan_export"]

CacheMeter: TypeAlias = "Callable[[ExportPlan, Path], CacheScales]"
"""The plan and the folder of its plain bundle to the scales of an int8 cache for it."""

WEIGHTS_FILE = "weights.bin"
HEAD_FILE = "head.onnx"
DRAFT_HEAD_FILE = "draft-head.onnx"
DRAFT_MODEL_FOLDER = "drafter"


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportPlan:
    """An export that is checked as far as the checkpoint's headers tell; `remarks` say what is not as asked for.

    `architecture` and the tensors of `checkpoint` are those that are written. `transforms` are those that changed them,
    in their order. `exits` are the numbers of layers after which the head may run, without the full depth; stages may
    end elsewhere. `draft_head` is how many of the first tokens the head for drafts knows; None is no such head.
    `exit_adapters` are what was trained for the exits, those not exported with them. `target` names the
    operators of the graphs. `rounder` gives the integers of matrices; `calibration` says from what it knows them, and
    then scales are folded already. `kept` are the kinds of integers that the checkpoint brings into the bundle;
    `keep_integers`: not only those that lie in blocks as ours do. `variants` are kinds of other graphs that are written
    beside the plain ones. `buckets` are the sizes of graphs of fixed shapes, None for none. `experts` are those that
    FFNs are carved into. `cache_meter` gives the scales of an int8 cache; the bundle then has graphs for both types of
    cache, and int8 is its own.
    """

    checkpoint: Checkpoint
    architecture: Architecture
    roles: TokenRoles
    recipe: Recipe
    stages: tuple[StageEntry, ...]
    transforms: tuple[Transform, ...] = ()
    exits: tuple[int, ...] = ()
    draft_model: ExportPlan | None = None
    draft_head: int | None = None
    exit_adapters: ExitAdapters | None = None
    target: str = "ort"
    remarks: tuple[str, ...] = ()
    rounder: Rounder = rounded
    calibration: Mapping[str, object] | None = None
    kept: tuple[KeptKind, ...] = ()
    keep_integers: bool = False
    variants: tuple[GraphVariant, ...] = ()
    experts: ExpertsEntry | None = None
    cache_meter: CacheMeter | None = None
    buckets: Buckets | None = None

    @property
    def models(self) -> tuple[ExportPlan, ...]:
        """This plan, and the draft model's where there is one."""
        return (self,) if self.draft_model is None else (self, self.draft_model)

    @property
    def is_as_shipped(self) -> bool:
        """Whether the weights are those of a folder of Hugging Face: not transformed, renamed or from integers."""
        checkpoint = self.checkpoint
        return not self.transforms and checkpoint.path.is_dir() and checkpoint.is_usual

    @property
    def settings(self) -> dict[str, Any]:
        """config.json of the model that is written, as numbers. Raises UnsupportedModel where transformers has none."""
        config = {key: value for key, value in self.checkpoint.config.items() if key != "quantization_config"}
        for transform in self.transforms:
            config = transform.settings(config, self.architecture)
        return config

    @property
    def num_kept(self) -> int:
        """How many matrices the checkpoint stores as integers that go into the bundle as they are."""
        return sum(kind.num_matrices for kind in self.kept)

    @property
    def is_exact(self) -> bool:
        """Whether rows fed in pairs give the same bits: not with experts, unless in small blocks."""
        if not TARGETS[self.target].is_exact:
            return False
        if self.architecture.experts is None:
            return True
        rule = self.recipe.for_tensor("layers.0.experts")
        return not self.num_kept and rule.block_size <= EXACT_BLOCKS.get(rule.bits, 0)

    @property
    def has_head(self) -> bool:
        """Whether the head is a graph of its own, and not the end of the only stage."""
        return not self.stages[-1].ends_in_logits

    @property
    def adapters(self) -> dict[str, str]:
        """The files of the graphs between exits and the head, by the exit's number of layers in digits."""
        known = {} if self.exit_adapters is None else self.exit_adapters.ranks
        return {str(layers): f"exit-{layers:02}.onnx" for layers in self.exits if layers in known}

    @property
    def num_parameters(self) -> int:
        """Weights of the model, without those of the draft model."""
        return _num_weights(self.architecture.tensor_shapes())

    @property
    def work(self) -> tuple[float, float]:
        """The bytes of all checkpoints that are read, some of them twice, and of a parameter."""
        num_bytes = sum(plan.checkpoint.tensors.num_bytes for plan in self.models)
        each = num_bytes / sum(plan.num_parameters for plan in self.models)
        return num_bytes + each * sum(plan._num_read_again for plan in self.models), each

    @property
    def _num_read_again(self) -> int:
        """About how many weights are read a second time: those of layers, by the graphs that read prompts."""
        if PREFILL_GRAPHS not in self.variants:
            return 0
        outside = {name for name in self.architecture.names.values() if "{layer}" not in name}
        shapes = self.architecture.tensor_shapes()
        return _num_weights({name: shape for name, shape in shapes.items() if name not in outside})

    def require_int8_cache(self) -> None:
        """Raise ConfigError where the target has no operator for it."""
        if not TARGETS[self.target].has_int8_cache:
            raise ConfigError(f"--target {self.target} has no operator that reads an int8 cache; leave one of them out")

    def with_int8_cache(self, meter: CacheMeter) -> ExportPlan:
        """Return the plan with an int8 cache whose scales a meter finds, the draft model with one too.

        Raises: ConfigError.
        """
        self.require_int8_cache()
        draft_model = None if self.draft_model is None else self.draft_model.with_int8_cache(meter)
        return replace(self, cache_meter=meter, draft_model=draft_model)

    def with_gains(self) -> ExportPlan:
        """Return the plan with the gains of norms folded, where the recipe asks for that."""
        scales = self.recipe.scales
        if scales is None or scales.method != "gains":
            return self
        tensors = apply((GainFolding(*scales.alphas),), self.architecture, self.checkpoint.tensors).tensors
        return replace(self, checkpoint=replace(self.checkpoint, tensors=tensors))

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
        """Write the bundle to `target`, whole or not at all.

        `on_progress` gets the number of parameters that were read since its last call. `check` gets the finished bundle
        in a hidden place, before it is shown, and returns figures for the manifest; where it raises, nothing appears.
        `sign` is the key that signs the manifest.
        Raises: OutputError when the place is taken and not `force`, or cannot be written; CheckpointError for bad
        weights.
        """
        with BundleWriter(target, force=force, sign=sign) as writer:
            variants = _write_files(self, writer.path, on_progress)
            if (draft_model := self.draft_model) is not None:
                folder = writer.path / DRAFT_MODEL_FOLDER
                folder.mkdir()
                of_draft = _write_files(draft_model, folder, on_progress)
                write_manifest(folder, lambda files: _manifest(draft_model, files, of_draft, command))
            finish(writer, lambda files, figures: _manifest(self, files, variants, command, figures), check)


def plan_export(source: str | Path, options: ExportOptions) -> ExportPlan:
    """Return the checked plan; see `with_draft_model` for two models in one bundle.

    No weight is read, except a few rows of matrices whose integers are re-coded, to say how near they are; adapters of
    exits read one small matrix, to see whether they are for these weights; embedding and head are compared where
    config.json ties them and both are stored; and what `ensures` of a transform reads.
    Raises: CheckpointError, UnsupportedModel, ConfigError.
    """
    checkpoint = open_checkpoint(source, revision=options.revision)
    require_plausible(checkpoint)
    checkpoint, architecture = _as_stored(checkpoint)
    keep = options.keep_integers and all(transform.keeps_matrices for transform in options.all_transforms)
    tensors = with_numbers(architecture, checkpoint.tensors, keep=keep)
    architecture, tensors, transforms = apply(options.all_transforms, architecture, tensors)
    checkpoint = replace(checkpoint, tensors=tensors)
    exits, stages = _stages(architecture, options)
    kept = kept_kinds(tensors, architecture.tensor_shapes())
    adapters, said = adapters_for(checkpoint, architecture, exits, options.exit_adapters)
    plan = ExportPlan(
        checkpoint=checkpoint,
        architecture=architecture,
        roles=TokenRoles.read(checkpoint, vocab_size=architecture.dimensions.vocab_size),
        recipe=_recipe_for(architecture, options, brings_integers=bool(kept)),
        stages=stages,
        transforms=transforms,
        exits=exits,
        draft_head=_draft_head(architecture, options, num_stages=len(stages)),
        exit_adapters=adapters,
        target=options.target,
        kept=kept,
        keep_integers=options.keep_integers,
        variants=(
            *(() if architecture.carving is None else (GraphVariant(kind=SPARSE),)),
            *(() if options.prefill is None else (PREFILL_GRAPHS,)),
        ),
        experts=_experts(transforms, architecture.dimensions.num_layers),
        buckets=_buckets(options, architecture),
    )
    return replace(plan, remarks=(*_remarks(plan, was_asked=not options.keep_integers), *said))


def _experts(transforms: Iterable[Transform], num_layers: int) -> ExpertsEntry | None:
    carved = (transform for transform in transforms if isinstance(transform, CarveExperts))
    return next((transform.entry(num_layers) for transform in carved), None)


def _buckets(options: ExportOptions, architecture: Architecture) -> Buckets | None:
    if not TARGETS[options.target].has_buckets:
        return None
    return plan_buckets(options.buckets, architecture.context_length)


def _num_weights(shapes: Mapping[str, tuple[int, ...]]) -> int:
    return sum(map(math.prod, shapes.values()))


def _as_stored(checkpoint: Checkpoint) -> tuple[Checkpoint, Architecture]:
    """Return the checkpoint, and what it holds where config.json says something else."""
    architecture = read_architecture(checkpoint.config, checkpoint.tensors.names())
    architecture, of_head = with_stored_head(checkpoint, architecture)
    architecture, of_biases = with_stored_biases(checkpoint, architecture)
    require_tensors(checkpoint, architecture)
    checkpoint = replace(checkpoint, remarks=(*checkpoint.remarks, *of_head, *of_biases))
    return with_rows(checkpoint, vocab_size=architecture.dimensions.vocab_size), architecture


def _stages(architecture: Architecture, options: ExportOptions) -> tuple[tuple[int, ...], tuple[StageEntry, ...]]:
    """Return the exits and the stages."""
    num_layers = architecture.dimensions.num_layers
    exits = parse_exits(options.exits, num_layers)
    stages = plan_stages(num_layers, exits, parse_cuts(options.cuts, num_layers))
    if len(stages) > 1 and architecture.altup is not None:
        raise UnsupportedModel(
            f"{architecture.family} has no exits: its streams and the inputs of its layers do not pass between stages; "
            "leave out --exits and --cuts"
        )
    return exits, stages


def _recipe_for(architecture: Architecture, options: ExportOptions, *, brings_integers: bool) -> Recipe:
    """Return the recipe, all of whose rules are for some matrix. Raises: ConfigError where the user's has another."""
    names = matrix_names(architecture)
    if TARGETS[options.target].least_bits == 32:
        return Recipe.named("fp32").for_matrices(names)
    if options.recipe is None:
        num_weights = _num_weights(architecture.tensor_shapes())
        return default_recipe(num_weights, brings_integers=brings_integers).for_matrices(names)
    if options.is_own_recipe:
        check_patterns(options.recipe, names)
    return options.recipe.for_matrices(names)


def _draft_head(architecture: Architecture, options: ExportOptions, *, num_stages: int) -> int | None:
    if options.draft_head is None:
        return None
    return parse_draft_head(options.draft_head, vocab_size=architecture.dimensions.vocab_size, num_stages=num_stages)


def _remarks(plan: ExportPlan, *, was_asked: bool) -> tuple[str, ...]:
    """Say for what the recipe does not hold, what is rounded twice, and what is left out."""
    remarks, num_rounded = [*plan.checkpoint.remarks], plan.checkpoint.tensors.num_rounded
    advice = ", as the export was asked to" if was_asked else ""
    if plan.num_kept:
        kept = "matrix keeps its" if plan.num_kept == 1 else "matrices keep their"
        remarks.append(f"{plan.num_kept} {kept} integers; {plan.recipe.name} is for the others")
    if any(kind.error for kind in plan.kept):
        remarks.append(f"re-coded for our kernels: {', '.join(map(str, plan.kept))}")
    if plan.architecture.experts is not None and any(rule.outliers for _, rule in plan.recipe.rules):
        remarks.append("experts keep no outliers, which their operator cannot take")
    if num_rounded and plan.recipe.kl_bound:
        remarks.append(f"{num_rounded} tensors lie in blocks that are not kept: they are rounded again{advice}")
    remarks.extend((*left_out(plan.checkpoint, plan.architecture), *plan.roles.remarks))
    return (*remarks, *sampling_remarks(plan.checkpoint))


def _write_files(plan: ExportPlan, folder: Path, on_progress: Callable[[int], None]) -> Variants:
    """Write all but the manifest; return the files of variants."""
    for name, content in plan.checkpoint.texts.items():
        (folder / name).write_bytes(content)
    return _write_graphs(plan, folder, on_progress)


def _write_graphs(plan: ExportPlan, folder: Path, on_progress: Callable[[int], None]) -> Variants:
    plan = plan if plan.calibration is not None else plan.with_gains()
    target, weights = TARGETS[plan.target], ModelWeights(plan.architecture, plan.checkpoint.tensors, on_progress)
    with WeightFile(folder / WEIGHTS_FILE, plan.rounder, least_bits=target.least_bits, numbers=target.numbers) as file:
        for stage in plan.stages:
            ir.save(
                build_stage(stage, plan.architecture, weights, plan.recipe, file, target=target), folder / stage.file
            )
        if plan.has_head:
            by_row = plan.draft_head is not None
            head = build_head(plan.architecture, weights, plan.recipe, file, by_row=by_row, target=target)
            ir.save(head, folder / HEAD_FILE)
        for layers, name in plan.adapters.items():
            assert plan.exit_adapters is not None
            adapter = plan.exit_adapters.read(int(layers))
            ir.save(build_exit(int(layers), adapter, file, target=target), folder / name)
        if plan.draft_head is not None:
            num_first, model = plan.draft_head, (plan.architecture, weights, plan.recipe, file)
            ir.save(build_draft_head(*model, num_first, target=target), folder / DRAFT_HEAD_FILE)
        file.flush()
        of_buckets = _write_buckets(plan, folder, weights, file)
        parts = (plan.architecture, weights, plan.recipe, file)
        return of_buckets | {
            variant.name: write_variant(folder, plan.stages, *parts, variant, target=target)
            for variant in (*plan.variants, *_cache_variants(plan, folder))
        }


def _write_buckets(
    plan: ExportPlan, folder: Path, weights: ModelWeights, file: WeightFile
) -> dict[str, dict[str, str]]:
    """Write the graphs of fixed shapes, where the target has some; return their files by the kind of variant."""
    if plan.buckets is None:
        return {}
    graphs = BucketGraphs(
        target=TARGETS[plan.target], architecture=plan.architecture, weights=weights, recipe=plan.recipe, file=file
    )
    adapters = {
        name: (int(layers), plan.exit_adapters.read(int(layers)))
        for layers, name in plan.adapters.items()
        if plan.exit_adapters is not None
    }
    return graphs.write(folder, plan.buckets, plan.stages, HEAD_FILE if plan.has_head else None, adapters)


def _cache_variants(plan: ExportPlan, folder: Path) -> tuple[GraphVariant, ...]:
    """Return all variants over an int8 cache, whose scales are measured on the plain bundle in `folder`."""
    if plan.cache_meter is None:
        return ()
    plain = replace(plan, cache_meter=None, draft_model=None)
    write_manifest(folder, lambda files: _manifest(plain, files, {}, ""))
    scales = plan.cache_meter(plain, folder)
    (folder / MANIFEST_NAME).unlink()
    return tuple(variant.with_cache(scales) for variant in (PLAIN, *plan.variants))


def _manifest(
    plan: ExportPlan,
    files: Mapping[str, FileEntry],
    variants: Variants,
    command: str,
    check: Mapping[str, object] | None = None,
) -> Manifest:
    architecture, d = plan.architecture, plan.architecture.dimensions
    cache, has_int8 = _layout(architecture, TARGETS[plan.target]), plan.cache_meter is not None
    return Manifest(
        family=architecture.family,
        dimensions=d,
        context_length=architecture.context_length if plan.buckets is None else plan.buckets.contexts[-1],
        stages=plan.stages,
        head=HEAD_FILE if plan.has_head else None,
        exits=plan.exits,
        cache=cache,
        recipe=_recipe(plan),
        bos_id=plan.roles.bos_id,
        stop_ids=plan.roles.stop_ids,
        stop_sources=plan.roles.ends,
        sampling=read_sampling(plan.checkpoint)[0],
        special_ids=plan.roles.special_ids,
        provenance=Provenance(source=plan.checkpoint.source, tool_version=version("skipstone"), command=command),
        files=files,
        long_rope_from=architecture.switch_after,
        rotaries=tuple(rotary.entry() for rotary in architecture.rotary_kinds),
        exact=plan.is_exact,
        check=check,
        draft_model=None if plan.draft_model is None else DRAFT_MODEL_FOLDER,
        adapters=plan.adapters,
        draft_head=None if plan.draft_head is None else DRAFT_HEAD_FILE,
        variants=variants,
        experts=plan.experts,
        other_caches={"int8": tuple(replace(layer, dtype="int8") for layer in cache)} if has_int8 else {},
        cache_type="int8" if has_int8 else TARGETS[plan.target].numbers,
        target=plan.target,
        buckets=plan.buckets,
    )


def _layout(architecture: Architecture, kernels: type[Kernels]) -> tuple[LayerCache, ...]:
    """Return how the plain graphs keep keys and values."""
    d = architecture.dimensions
    head_size, windows = kernel_head_size(d.head_size), architecture.windows
    return tuple(
        LayerCache(
            num_heads=d.num_kv_heads,
            head_size=head_size,
            dtype=kernels.numbers,
            window=windows[layer],
            ring=ring.unit if kernels.has_rings and (ring := ring_layout(architecture, layer)) else None,
        )
        for layer in architecture.cached_layers
    )


def _recipe(plan: ExportPlan) -> dict[str, Any]:
    """Return the recipe as the manifest holds it, with what is not usual in it."""
    kinds = [kind.to_json() for kind in plan.kept]
    kept: dict[str, Any] = {"kept_integers": plan.num_kept, "kept_kinds": kinds} if kinds else {}
    kept |= {"keep_integers": True} if kinds and plan.keep_integers else {}
    kept |= {} if plan.calibration is None else {"calibration": plan.calibration}
    return {**plan.recipe.to_json(), **kept, **({} if plan.target == "ort" else {"target": plan.target})}
