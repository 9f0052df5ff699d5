"""From a model's name to its bundle: what is no bundle is exported on first use."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path

from skipstone.bundled import BUNDLED
from skipstone.by_name.content import digest, file_stats, is_checkpoint
from skipstone.by_name.kept_export import Files, KeptExport, exports_folder, kept_exports
from skipstone.by_name.model_name import MANIFEST_NAME, ModelName, is_hub_id, unknown
from skipstone.by_name.turns import taking_turns
from skipstone.errors import BundleError, CheckpointError, OutputError
from skipstone.watcher import Watcher

__all__ = ["resolve"]


def resolve(model: str | Path, *, watcher: Watcher | None = None, command: str = "load") -> Path:
    """Return the bundle folder of a model by its name.

    That is a bundle folder, a bundled model such as `pebble`, or what is exported on first use, as `export` does it
    without options: the folder of a checkpoint, a GGUF file, or an id of the Hugging Face hub. `NAME:int8` exports with
    that precision, `owner/name@REVISION` takes a branch, tag or commit. `watcher` hears of that export; others that ask
    for the same wait for it. Raises: BundleError for what is none of them; CheckpointError, UnsupportedModel,
    OutputError.
    """
    name, watcher = ModelName.parse(str(model)), watcher or Watcher()
    if name.place in BUNDLED:
        _require_no_trust(name.place)
        if name.precision:
            return _of_files(BUNDLED[name.place], name, watcher, command)
        from skipstone.by_name.bundled_export import bundled_bundle

        return bundled_bundle(name.place, on_wait=_on_wait(name.place, watcher))
    path = Path(name.place)
    if (path / MANIFEST_NAME).is_file():
        if name.precision:
            raise BundleError(f"{path} is a bundle and keeps its precision: leave :{name.precision} out")
        return path
    if path.exists():
        if not is_checkpoint(path):
            return path
        _require_no_trust(name.place)
        return _of_files(path, name, watcher, command)
    if not is_hub_id(name.place):
        raise BundleError(unknown(name.place))
    _require_no_trust(name.place)
    return _of_hub(name, watcher, command)


def _require_no_trust(model: str) -> None:
    """Raise BundleError for what would be exported now where only signed bundles are wanted."""
    from skipstone.runtime.bundle import TRUST, trusted_paths

    if trusted_paths():
        raise BundleError(
            f"{model} is no bundle, so nobody has signed it, and {TRUST} asks for that: export it with --sign KEY, or "
            f"unset {TRUST}"
        )


def _on_wait(name: str, watcher: Watcher) -> Callable[[], None]:
    return lambda: watcher.remark(f"another process or thread exports {name}; waiting for it")


def _of_files(path: Path, name: ModelName, watcher: Watcher, command: str) -> Path:
    """Return the kept bundle of a checkpoint in a folder, or of a GGUF file."""
    place = path.resolve()
    files = file_stats(place)
    for kept in _usable(name):
        if kept.sources.get(str(place)) == files and kept.opens():
            kept.used()
            return kept.path
    label = name.place if name.place in BUNDLED else place.stem if place.is_file() else place.name
    return _made(_asked(name, label, str(place), place, files), place, watcher, command)


def _of_hub(name: ModelName, watcher: Watcher, command: str) -> Path:
    """Return the kept bundle of a model on the hub; once it is kept, the hub is not asked again."""
    for kept in _usable(name):
        if name.place in kept.sources and kept.revision == name.revision and kept.opens():
            kept.used()
            return kept.path
    from skipstone.exporters.checkpoints import fetch

    watcher.remark(f"{name.place} is no folder here; it is fetched from the Hugging Face hub")
    try:
        place = fetch(name.place, name.revision or None)
    except CheckpointError as error:
        raise CheckpointError(
            f"there is no folder {name.place} here, and {error}; with a folder or a file it is: {_example(command)}"
        ) from error
    asked = _asked(name, name.place.replace("/", "--"), name.place, place, {})
    return _made(replace(asked, commit=place.name), place, watcher, command)


def _usable(name: ModelName) -> list[KeptExport]:
    """Return the exports that this version made with the precision that is asked for."""
    return [kept for kept in kept_exports() if (kept.version, kept.precision) == (version("skipstone"), name.precision)]


def _example(command: str) -> str:
    return 'skipstone.load("./FOLDER")' if command == "load" else f"skipstone {command} ./FOLDER"


def _asked(name: ModelName, label: str, source: str, place: Path, files: Files) -> KeptExport:
    """Return what is to be kept; another place of the same content is where that lies already."""
    content = digest(place)
    for kept in _usable(name):
        if kept.digest == content and kept.revision == name.revision:
            sources = {place: told for place, told in kept.sources.items() if place != source}
            return replace(kept, sources={**sources, source: files})
    key = hashlib.sha256(f"{version('skipstone')} {content} {name.precision}".encode()).hexdigest()[:12]
    return KeptExport(
        sources={source: files},
        digest=content,
        version=version("skipstone"),
        precision=name.precision,
        revision=name.revision,
        path=exports_folder() / f"{_plain(label)}-{key}",
    )


def _made(kept: KeptExport, place: Path, watcher: Watcher, command: str) -> Path:
    """Return the bundle, which is exported if it is not there. Raises: OutputError."""
    try:
        with taking_turns(kept.path, _on_wait(kept.source, watcher)):
            if not kept.opens():
                _export(kept, place, watcher, command)
            kept.write()
    except (OutputError, OSError) as error:
        if not kept.opens():
            raise OutputError(f"{error}; SKIPSTONE_CACHE sets the folder of what is kept") from error
    return kept.path


def _export(kept: KeptExport, place: Path, watcher: Watcher, command: str) -> None:
    from skipstone.export_job import ExportJob
    from skipstone.exporters import PlanKeywords

    if kept.path.exists():
        watcher.remark(f"{kept.path} is damaged; it is made again")
        kept.remove()
    watcher.remark(f"{kept.asked} is exported once and kept; `skipstone cache` lists what is")
    options = PlanKeywords()
    if kept.precision:
        options["precision"] = kept.precision  # type: ignore[typeddict-item]  # `ModelName` knows them all
    if kept.commit:
        options["revision"] = kept.revision or None
    checkpoint = kept.source if kept.commit else place
    job = ExportJob(checkpoint=checkpoint, output=kept.path, options=options, force=True)
    job.run(watcher, command=f"skipstone {command} {kept.asked}")


def _plain(label: str) -> str:
    """Return a name that can be a folder's."""
    letters = (letter if letter.isalnum() or letter in "._-" else "-" for letter in label)
    return "".join(letters)[:80].strip(".") or "model"
