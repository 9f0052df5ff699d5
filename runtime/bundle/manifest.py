"""What a bundle says about itself: `skipstone.json`, read strictly and validated as a whole."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field

from skipstone.errors import BundleError
from skipstone.runtime.bundle.buckets import Buckets
from skipstone.runtime.bundle.experts_entry import ExpertsEntry
from skipstone.runtime.bundle.file_entry import FileEntry, Provenance
from skipstone.runtime.bundle.formats import FORMAT_VERSION, refuse_newer, upgraded
from skipstone.runtime.bundle.ring_layout import RingLayout
from skipstone.runtime.bundle.rotary_entry import RotaryEntry
from skipstone.runtime.bundle.typed_json import DataError, parse_json, read_typed
from skipstone.runtime.bundle.variants import (
    PLAIN_CACHE,
    PLAIN_CACHES,
    Variants,
    check_variants,
    graph_of,
    kind_and_cache,
)

__all__ = [
    "MANIFEST_NAME",
    "Dimensions",
    "LayerCache",
    "Manifest",
    "StageEntry",
]

MANIFEST_NAME = "skipstone.json"
GRAPHS = ("skipstone", "optimum")
CACHE_BYTES: Mapping[str, int] = {"float32": 4, "float16": 2, "int8": 1}


@dataclass(frozen=True, slots=True, kw_only=True)
class Dimensions:
    """The sizes of the whole model; `head_size` is that of one attention head."""

    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_size: int

    def __post_init__(self) -> None:
        for name, size in asdict(self).items():
            _require(size >= 1, f"{name} must be at least 1, found {size}")


@dataclass(frozen=True, slots=True, kw_only=True)
class StageEntry:
    """One graph over the layers from `first_layer` up to, not including, `end_layer`."""

    file: str
    first_layer: int
    end_layer: int
    embeds: bool
    ends_in_logits: bool

    def __post_init__(self) -> None:
        _check_file_name(self.file)
        first, end = self.first_layer, self.end_layer
        _require(0 <= first < end, f"a stage has at least one layer, found first_layer {first} and end_layer {end}")


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerCache:
    """How one layer keeps its keys and values; what integers mean stands in its graphs.

    `ring` is for a layer with a window whose graph takes lengths of its own, so that its cache need not hold the whole
    text: how many rows leave at a time; see `RingLayout`. None where all rows stay.
    """

    num_heads: int
    head_size: int
    dtype: str
    window: int | None = None
    ring: int | None = None

    def __post_init__(self) -> None:
        _require(self.dtype in CACHE_BYTES, f"dtype must be one of {', '.join(CACHE_BYTES)}, found {self.dtype!r}")
        for name in ("num_heads", "head_size", "window", "ring"):
            size = getattr(self, name)
            _require(size is None or size >= 1, f"{name} must be at least 1, found {size}")
        _require(self.ring is None or self.window is not None, "ring goes with a window, found none")

    @property
    def bytes_per_token(self) -> int:
        """Bytes of the keys and values of one token."""
        return 2 * self.num_heads * self.head_size * CACHE_BYTES[self.dtype]

    def num_rows(self, context_length: int) -> int:
        """Return how many rows a text of `context_length` tokens takes at most."""
        layout = self.ring_layout
        return layout.num_rows if layout and context_length > layout.num_working else context_length

    @property
    def ring_layout(self) -> RingLayout | None:
        """Which rows of a long text stay; None where all do."""
        return None if self.window is None or self.ring is None else RingLayout(self.window, self.ring)


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """All that the runtime knows of a bundle before it opens a graph. An instance is always valid.

    `head` is the file of the head's graph when the stages end in hidden states. `exits` are the numbers of layers
    after which the head may run, without the full depth. `recipe` is the JSON data of the quantization recipe (lists,
    no tuples). `files` has every file of the bundle but the manifest, by its name relative to the folder.
    `draft_model` is the folder of the draft model, a bundle of its own whose files, its manifest with them, are in
    `files` too. `graph` says who wrote the graphs: ours, or optimum, whose one graph has inputs of its own. A text of
    more than `long_rope_from` tokens turns all its positions by the angles of long texts; None is no text. `rotaries`
    are the ways in which layers turn positions, whose tables the graphs read; none where nothing is turned, and where
    the graphs hold tables of their own. `exact` says whether rows fed in pairs give the same bits, however many they
    are. `check` has the figures of the export's comparison with the original; None where it made none. `adapters` are
    the graphs that stand between an exit, by its number of layers in digits, and the head. `draft_head` is the graph
    of a head over part of the vocabulary, which drafters use; None is none. `stop_sources` say of each stop token where
    the checkpoint says so. `sampling` is how the checkpoint recommends to choose tokens, by the names of the sampling
    options; empty where it says nothing. `cache` is for the plain graphs, in numbers; `other_caches` are the layouts of
    the other types, and `cache_type` is the one that is taken unless another is asked for. `variants` are other graphs
    of the stages: see `variants.py`. `target` is what the graphs were written for, by the name that `export --target`
    has for it: it says whose operators they use. `buckets` are the sizes that graphs of fixed shapes are for; None
    where there are none. `experts` are those that dense FFNs were carved into; None where they were not.
    Raises: BundleError when a part is out of range or the parts do not fit each other.
    """

    format_version: int = FORMAT_VERSION
    family: str
    dimensions: Dimensions
    context_length: int
    stages: tuple[StageEntry, ...]
    head: str | None
    exits: tuple[int, ...]
    cache: tuple[LayerCache, ...]
    recipe: Mapping[str, object]
    bos_id: int | None
    stop_ids: tuple[int, ...]
    special_ids: tuple[int, ...]
    provenance: Provenance
    files: Mapping[str, FileEntry]
    draft_model: str | None = None
    graph: str = "skipstone"
    long_rope_from: int | None = None
    exact: bool = True
    check: Mapping[str, object] | None = None
    adapters: Mapping[str, str] = field(default_factory=dict)
    draft_head: str | None = None
    stop_sources: Mapping[int, str] = field(default_factory=dict)
    sampling: Mapping[str, float] = field(default_factory=dict)
    rotaries: tuple[RotaryEntry, ...] = ()
    variants: Variants = field(default_factory=dict)
    other_caches: Mapping[str, tuple[LayerCache, ...]] = field(default_factory=dict)
    cache_type: str = PLAIN_CACHE
    experts: ExpertsEntry | None = None
    target: str = "ort"
    buckets: Buckets | None = None

    def __post_init__(self) -> None:
        found = self.format_version
        _require(found == FORMAT_VERSION, f"format_version must be {FORMAT_VERSION}, found {found}")
        _require(self.context_length >= 1, f"context_length must be at least 1, found {self.context_length}")
        _require(self.graph in GRAPHS, f"graph must be one of {', '.join(GRAPHS)}, found {self.graph!r}")
        border = self.long_rope_from
        _require(border is None or border >= 1, f"long_rope_from must be at least 1, found {border}")
        num_layers = self.dimensions.num_layers
        _require(0 < len(self.cache) <= num_layers, f"cache has {len(self.cache)} layers, 1 to {num_layers} wanted")
        self._check_stages()
        self._check_exits()
        self._check_ids()
        self._check_files()
        self._check_rotaries()
        if self.experts is not None:
            self.experts.check_layers(num_layers)
        self._check_caches()
        for name in ("recipe", "check", "sampling"):
            try:
                json.dumps(getattr(self, name), allow_nan=False)
            except (TypeError, ValueError, RecursionError) as error:
                raise BundleError(f"{name} is not JSON data: {error}") from error

    def _check_stages(self) -> None:
        _require(len(self.stages) > 0, "stages is empty")
        start = 0
        for number, stage in enumerate(self.stages):
            where, first, last = f"stages[{number}]", number == 0, number == len(self.stages) - 1
            _require(stage.first_layer == start, f"{where} starts at layer {stage.first_layer}, {start} wanted")
            _require(stage.embeds == first, f"{where}.embeds must be true for the first stage and only for it")
            _require(last or not stage.ends_in_logits, f"{where}.ends_in_logits is for the last stage only")
            start = stage.end_layer
        num_layers = self.dimensions.num_layers
        _require(start == num_layers, f"stages end after {start} layers, {num_layers} wanted")
        either = self.stages[-1].ends_in_logits == (self.head is None)
        _require(either, "head: wanted is either a head or a last stage that ends in logits, found both or neither")

    def _check_exits(self) -> None:
        inner_ends = [stage.end_layer for stage in self.stages[:-1]]
        for layers in self.exits:
            _require(layers in inner_ends, f"exits: {layers} is not the end of a stage before the last ({inner_ends})")
        _require(len(set(self.exits)) == len(self.exits), f"exits: a number stands twice in {list(self.exits)}")
        _require(not self.exits or self.head is not None, "exits need a head, but the last stage ends in logits")
        for name in self.adapters:
            _require(name in map(str, self.exits), f"adapters: {name!r} is not one of the exits {list(self.exits)}")
        either = self.draft_head is None or self.head is not None
        _require(either, "draft_head goes with a head, but the last stage ends in logits")

    def _check_ids(self) -> None:
        vocab_size, bos_ids = self.dimensions.vocab_size, () if self.bos_id is None else (self.bos_id,)
        for name, ids in (("bos_id", bos_ids), ("stop_ids", self.stop_ids), ("special_ids", self.special_ids)):
            for token_id in ids:
                inside = 0 <= token_id < vocab_size
                _require(inside, f"{name}: {token_id} is outside the vocabulary of {vocab_size}")

    def _check_files(self) -> None:
        for name in self.files:
            _check_file_name(name)
        _require(MANIFEST_NAME not in self.files, f"files: {MANIFEST_NAME} cannot hold its own hash")
        used = self._graphs
        if self.draft_model is not None:
            _check_file_name(self.draft_model)
            used.append(f"{self.draft_model}/{MANIFEST_NAME}")
        for name in used:
            _require(name in self.files, f"files: {name} is missing")

    def _check_rotaries(self) -> None:
        for number, rotary in enumerate(self.rotaries):
            found, most = len(rotary.frequencies), self.cache[0].head_size // 2
            _require(found <= most, f"rotaries[{number}] turns {found} pairs of channels, a head has {most}")

    def _check_caches(self) -> None:
        for name, layers in self.other_caches.items():
            found, wanted = len(layers), len(self.cache)
            _require(found == wanted, f"other_caches[{name!r}] has {found} layers, {wanted} wanted")
        for name in PLAIN_CACHES:
            _require(name not in self.other_caches, f"other_caches: {name} is the type of `cache` itself")
        types = ", ".join(self.cache_types)
        _require(self.cache_type in self.cache_types, f"cache_type must be one of {types}, found {self.cache_type!r}")
        for kind in () if self.buckets is None else self.buckets.kinds:
            _require(kind in self.variant_kinds, f"variants: {kind} is missing, which is one of buckets")
        check_variants(
            self.variants, graphs=self._graphs, files=self.files, cache_types=(PLAIN_CACHE, *self.other_caches)
        )

    @property
    def _graphs(self) -> list[str]:
        """The files of the plain graphs."""
        heads = [name for name in (self.head, self.draft_head) if name is not None]
        return [*(stage.file for stage in self.stages), *heads, *self.adapters.values()]

    @property
    def cache_types(self) -> tuple[str, ...]:
        """The types of cache that there are graphs for, that of the plain ones first."""
        return (self.numbers, *self.other_caches)

    @property
    def numbers(self) -> str:
        """The type of the numbers that the graphs take and give, logits aside: that of the plain cache."""
        return "float16" if all(layer.dtype == "float16" for layer in self.cache) else PLAIN_CACHE

    def layout(self, cache_type: str) -> tuple[LayerCache, ...]:
        """Return how layers keep keys and values in a type of cache."""
        return self.cache if cache_type == self.numbers else self.other_caches[cache_type]

    @property
    def variant_kinds(self) -> frozenset[str]:
        """The kinds of graphs beside the plain ones, whatever the cache."""
        return frozenset(kind for kind, _ in map(kind_and_cache, self.variants) if kind)

    def graph_file(self, file: str, *, kind: str, cache_type: str) -> str:
        """Return the file of a plain graph as a kind of variant, "" for none, has it for a type of cache."""
        return graph_of(file, self.variants, kind=kind, cache_type=cache_type)

    @property
    def precision(self) -> str:
        """What its recipe is called, such as int4; empty where it has no name."""
        return str(self.recipe.get("name", ""))

    @property
    def is_traced(self) -> bool:
        """Whether optimum traced the graph, which has inputs and names of its own."""
        return self.graph == "optimum"

    @property
    def total_bytes(self) -> int:
        """Bytes of all files, without the manifest."""
        return sum(entry.size for entry in self.files.values())

    @property
    def draft_model_bytes(self) -> int:
        """Bytes of all files of the draft model, with its manifest; 0 without a draft model."""
        if self.draft_model is None:
            return 0
        return sum(entry.size for name, entry in self.files.items() if name.startswith(f"{self.draft_model}/"))

    @property
    def cache_bytes_per_token(self) -> int:
        """Bytes that one more token takes in the caches of all layers, windows not yet full."""
        return sum(layer.bytes_per_token for layer in self.cache)

    def cache_bytes(self, context_length: int, cache_type: str | None = None) -> int:
        """Bytes that the caches of all layers take for a text of `context_length` tokens, by default the bundle's own.

        With windows that is less than `context_length` times `cache_bytes_per_token`.
        """
        layers = self.layout(cache_type or self.cache_type)
        return sum(layer.num_rows(context_length) * layer.bytes_per_token for layer in layers)

    def to_json(self) -> str:
        """Return the text of `skipstone.json`."""
        return json.dumps(asdict(self), indent=2, allow_nan=False) + "\n"

    @classmethod
    def from_json(cls, text: str) -> Manifest:
        """Return the manifest that `text` holds. Every field must be there, and no other; older formats lack some.

        Raises: BundleError with the path of the field that is wrong, or when a newer version is needed to read it.
        """
        try:
            data = parse_json(text)
            refuse_newer(data)
            return read_typed(cls, upgraded(data), name="the manifest")
        except DataError as error:
            raise BundleError(str(error)) from error


def _require(holds: bool, message: str) -> None:
    if not holds:
        raise BundleError(message)


def _check_file_name(name: str) -> None:
    """Refuse a name that could lead out of the bundle, here or on another operating system."""
    parts_fit = all(part not in ("", ".", "..") for part in name.split("/"))
    fits = parts_fit and name.isprintable() and "\\" not in name and ":" not in name
    _require(fits, f"{name!r} is not a file name inside the bundle")
