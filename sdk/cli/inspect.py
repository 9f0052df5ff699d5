"""skipstone inspect: what is in a bundle."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.progress import DownloadColumn

from skipstone.cli.memory_table import as_json, memory_of, memory_table, windows_told
from skipstone.cli.options import BundleArgument, JsonOption, QuietOption
from skipstone.cli.terminal import print_columns, print_json, progress_bar
from skipstone.errors import ConfigError
from skipstone.runtime.bundle import PREFILL, Buckets, Bundle, ExpertsEntry, Manifest

if TYPE_CHECKING:
    from skipstone.runtime.methods.depth import ExitThresholds

NAME = "inspect"
EXAMPLES = """\b
Examples:
  skipstone inspect pebble
  skipstone inspect my-bundle --verify --json
  skipstone inspect my-bundle --recipe > recipe.json"""

SHOWN_AGREEMENT = 0.98
WHY_AGAIN = "export it again for texts that drafts do not change, and less memory"
AGAIN_SINCE = 6  # what is newer lacks only what an export has to be asked for


def run(
    bundle: BundleArgument,
    verify: Annotated[bool, typer.Option("--verify", help="Also compare the sha256 of every file.")] = False,
    recipe: Annotated[
        bool, typer.Option("--recipe", help="Print its recipe alone, which `export --recipe` reads.")
    ] = False,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Show what a bundle holds.

    Layers, sizes, precision, exits, draft model, cache, memory and where it comes from; its whole manifest with --json.
    """
    from skipstone.bundled import notes_folder
    from skipstone.check import draft_head_tokens, part_sizes
    from skipstone.cli.naming import bundle_folder
    from skipstone.runtime.methods.depth import exits_note

    opened = Bundle.open(bundle_folder(bundle))
    if recipe:
        print_json(dict(opened.manifest.recipe))
        return
    if verify:
        total = opened.manifest.total_bytes
        with progress_bar("verifying", total=total, count=DownloadColumn(), quiet=quiet) as (progress, task):
            opened.verify(lambda num_bytes: progress.advance(task, num_bytes))
    folder = notes_folder()
    calibration = exits_note(opened.manifest).find(folder) if opened.manifest.exits else None
    facts = summary(opened, part_sizes(opened), calibration) | ({"verified": True} if verify else {})
    if (stored := opened.stored_format) < AGAIN_SINCE:
        facts["format"] = f"{stored}, of an older version: {WHY_AGAIN}"
    if adapted := opened.manifest.adapters:
        facts["exit_adapters"] = f"after {', '.join(sorted(adapted, key=int))} layers"
    if known := draft_head_tokens(opened):
        facts["draft_head"] = f"the first {known} of {facts['vocabulary']} tokens"
    facts["end_tokens"] = _end_tokens(opened)
    facts["sampling"] = _sampling(opened.manifest.sampling)
    if skipped := _layers_to_skip(opened, folder):
        facts["layers_to_skip"] = skipped
    if dials := _calibrated_dials(opened, folder):
        facts["calibrated_dials"] = dials
    if as_json:
        print_json({**facts, "manifest": asdict(opened.manifest)})
    else:
        facts["memory"] = memory_table(memory_of(opened), context_length=opened.manifest.context_length)
        print_columns((_label(name), _readable(name, facts[name])) for name in facts if _is_shown(name, opened))


def summary(bundle: Bundle, parts: Mapping[str, int], calibration: ExitThresholds | None) -> dict[str, Any]:
    """Return the figures that people ask for; sizes in bytes. Exits have a calibration where one is kept here."""
    manifest, draft_model = bundle.manifest, bundle.open_draft_model()
    d, weights = manifest.dimensions, manifest.files.get("weights.bin")
    weights_bytes = weights.size if weights else 0
    memory = memory_of(bundle)
    return {
        "family": manifest.family,
        "layers": d.num_layers,
        "hidden_size": d.hidden_size,
        "heads": f"{d.num_heads} query, {d.num_kv_heads} key-value, of {d.head_size}",
        **({"windows": windows} if (windows := windows_told(manifest)) else {}),
        "vocabulary": d.vocab_size,
        "context": manifest.context_length,
        "precision": _precision(manifest.recipe),
        "target": manifest.target,
        **({"buckets": _buckets(manifest.buckets)} if manifest.buckets else {}),
        "checked": _checked(manifest.check),
        "stages": [f"{stage.file}: layers {stage.first_layer} to {stage.end_layer - 1}" for stage in manifest.stages],
        "exits": list(manifest.exits),
        **({"calibrated": _calibrated(calibration)} if manifest.exits else {}),
        **({"experts": _experts(manifest.experts)} if manifest.experts else {}),
        **({"prefill": _prefill(manifest)} if PREFILL in manifest.variant_kinds else {}),
        "draft_model": _draft_model_line(bundle, draft_model) if draft_model else "none",
        "weights_bytes": weights_bytes,
        "parts_bytes": dict(parts),
        "draft_model_size_bytes": manifest.draft_model_bytes,
        "other_bytes": manifest.total_bytes - manifest.draft_model_bytes - weights_bytes,
        "cache_bytes_per_1k_tokens": manifest.cache_bytes_per_token * 1000,
        "estimated_memory_bytes": next(iter(memory.values())).total_bytes,
        "memory": as_json(memory),
        "source": manifest.provenance.source,
        "made_by": f"skipstone {manifest.provenance.tool_version}",
        "command": manifest.provenance.command or "none, exported from Python",
    }


def _buckets(buckets: Buckets) -> str:
    """Return the sizes that graphs of fixed shapes are for."""
    rows, contexts = (", ".join(map(str, sizes)) for sizes in (buckets.rows, buckets.contexts))
    return f"calls of {rows} rows, caches of {contexts} tokens"


def _prefill(manifest: Manifest) -> str:
    """Return whether prompts are read in int8 unless asked otherwise, and what that costs."""
    from skipstone.runtime.engine import prefill_by_default, prefill_kl

    kl = prefill_kl(manifest)
    when = "by default" if prefill_by_default(manifest) else "with --prefill int8 only"
    return f"int8 {when}, " + ("not measured" if kl is None else f"KL of answers {kl:.4f}")


def _experts(experts: ExpertsEntry) -> list[str]:
    """Return how many experts an FFN has, and of each level how many are active, and its cost where that is known."""
    lines = [f"{experts.num_experts} of each FFN, {experts.num_shared} of them always active"]
    for share, level in experts.levels.items():
        least, most = min(level.active), max(level.active)
        count = f"{least}" if least == most else f"{least} to {most}"
        cost = "" if level.kl is None else f", KL {level.kl:.4f}"
        default = " (default)" if share == experts.default else ""
        lines.append(f"{100 * float(share):g} % active{default}: {count}{cost}")
    return lines


def _sampling(said: Mapping[str, float]) -> str:
    """Return how a chat chooses tokens, and whether the model says so."""
    from skipstone.runtime.sampling import recommended_sampling

    values = recommended_sampling(said)
    shown = "greedy" if values["temperature"] == 0 else ", ".join(f"{name} {values[name]:g}" for name in values)
    stated = ", ".join(f"{name} {said[name]:g}" for name in said) or "nothing"
    source = "as the model recommends" if "temperature" in said else f"the model recommends {stated}"
    return f"{shown} (in a chat; {source})"


def _end_tokens(bundle: Bundle) -> list[str]:
    """Return each token that ends a text, with its id and the places of the checkpoint that say so."""
    from skipstone.runtime.text import Tokenizer

    tokenizer, sources = Tokenizer.load(bundle.place), bundle.manifest.stop_sources
    return [
        f"{tokenizer.piece(token_id)} ({token_id}): {sources.get(token_id, 'not kept in a bundle of this age')}"
        for token_id in bundle.manifest.stop_ids
    ]


def _calibrated(calibration: ExitThresholds | None) -> list[str]:
    """Return what is known of each exit: how often it agrees, and how many tokens may leave there."""
    if calibration is None:
        return ["no; `skipstone tune exits BUNDLE --text FILE` does it"]
    lines = []
    for one in calibration.exits:
        level = one.level(SHOWN_AGREEMENT)
        leave = "no token leaves" if level is None else f"{level.share:.0%} of tokens leave"
        alone = f"after {one.num_layers} layers: alone as the full model on {100 * one.agreement:.1f} % of tokens"
        lines.append(f"{alone}, {leave} at {SHOWN_AGREEMENT:.0%} agreement")
    return [*lines, f"on {calibration.num_tokens} tokens, sure to {1 - calibration.error_rate:.0%}"]


def _calibrated_dials(bundle: Bundle, folder: Path) -> list[str]:
    """Return how far each dial may be turned that is calibrated for the bundle here, with its own little model."""
    from skipstone.runtime.methods import approximate_methods, dial_note_of

    draft_model, lines = bundle.open_draft_model(), []
    for method in approximate_methods().values():
        note = dial_note_of(
            method, bundle.manifest, draft_model.manifest if draft_model and method.uses_draft_model else None
        )
        known = note.find(folder)
        if known is None:
            continue
        setting = known.loosest(SHOWN_AGREEMENT)
        far = "plain decoding only" if setting is None else f"{setting:g} ({method.dial.unit})"
        lines.append(f"{method.name}: {far} at {SHOWN_AGREEMENT:.0%} agreement, on {known.num_tokens} tokens")
    return lines


def _layers_to_skip(bundle: Bundle, folder: Path) -> str | None:
    """Return which layers `tune skip` found for this bundle here; None where nothing is kept that fits its stages."""
    from skipstone.runtime.methods.depth import skip_note, skipped_stages

    manifest = bundle.manifest
    found = skip_note(manifest).find(folder)
    if found is None:
        return None
    try:
        skipped_stages(manifest, found.layers)
    except ConfigError:
        return None
    layers = f"{', '.join(map(str, found.layers))} (of 0 to {manifest.dimensions.num_layers - 1})"
    return f"{layers}: as the full model on {100 * found.agreement:.1f} % of {found.num_tokens} tokens"


def _precision(recipe: Mapping[str, object]) -> str:
    kept = recipe.get("kept_integers")
    kinds = recipe.get("kept_kinds")
    said = (
        str(recipe.get("name")),
        f"{kept} matrices as in the checkpoint{_kinds(kinds)}" if kept else "",
    )
    return ", ".join(filter(None, said))


def _kinds(kinds: object) -> str:
    """Return which kinds of integers there are and how near they lie, for manifests that say it."""
    if not isinstance(kinds, list):
        return ""
    said = (
        f"{kind['matrices']} {kind['kind']} {'within %.2g %%' % (100 * kind['error']) if kind['error'] else 'exact'}"
        for kind in kinds
    )
    return f" ({'; '.join(said)})"


def _checked(figures: Mapping[str, Any] | None) -> str:
    """Return what the comparison at export found."""
    from skipstone.check import Parity

    if figures is None or "ways" not in figures:
        return "no, exported without --check"
    parity = Parity.from_json(figures)
    logits = f"logits within {parity.max_logit_error:.1e} of transformers {figures['transformers']}"
    return f"{logits}, KL {parity.kl:.4f} nats per token"


def _draft_model_line(bundle: Bundle, draft_model: Bundle) -> str:
    num_layers, recipe = draft_model.manifest.dimensions.num_layers, draft_model.manifest.recipe
    tokenizer = "the same tokenizer" if _share_tokenizer(bundle, draft_model) else "another tokenizer"
    return f"{num_layers} layer{'s' * (num_layers > 1)}, {recipe.get('name')}, {tokenizer}"


def _share_tokenizer(first: Bundle, second: Bundle) -> bool:
    if first.manifest.files.get("tokenizer.json") == second.manifest.files.get("tokenizer.json"):
        return True
    from skipstone.runtime.text import Tokenizer, same_but_for_rows, same_tokenizer

    large, small = Tokenizer.load(first.place), Tokenizer.load(second.place)
    num_rows = second.manifest.dimensions.vocab_size
    return same_tokenizer(large, small) or same_but_for_rows(small, large, num_rows=num_rows)


def _is_shown(name: str, bundle: Bundle) -> bool:
    """Whether a figure stands in the columns: not what the table of memory tells, nor a draft model it lacks."""
    told = name in ("cache_bytes_per_1k_tokens", "estimated_memory_bytes")
    return not told and (name != "draft_model_size_bytes" or bundle.manifest.draft_model is not None)


def _label(name: str) -> str:
    return name.replace("_bytes", "").replace("_", " ")


def _readable(name: str, value: Any) -> str:
    if isinstance(value, dict):
        return "\n".join(f"{part}: {num_bytes / 1e6:.2f} MB" for part, num_bytes in value.items())
    if "bytes" in name:
        return f"{value / 1e6:.1f} MB"
    if isinstance(value, list):
        return "\n".join(str(item) for item in value) or "none"
    return "yes" if value is True else str(value)
