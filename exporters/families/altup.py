"""What a Gemma 3n decoder has beside attention and FFN: several streams, inputs of each layer, and shared caches.

Source: Alternating Updates (Baykal et al., 2023); Gemma 3n as released.
"""

from __future__ import annotations

from dataclasses import dataclass

from skipstone.errors import CheckpointError

__all__ = ["AltUp"]


@dataclass(frozen=True, slots=True, kw_only=True)
class AltUp:
    """A decoder whose layers compute one of `num_streams` streams, and predict and correct the others.

    Layers compute the stream `active`; `scaled` says whether what it lets through to the others is scaled by channel.
    Beside attention they have a product of low rank, `laurel_rank`. Each layer has an input of `per_layer_size` of its
    own for each token, from a table of `per_layer_vocab_size` tokens; a token beyond it has the input of token 0. One
    entry per layer have `sparsities`, the share of the FFN's gates that stay closed if they are normal, and
    `cache_owners`, the layer whose keys and values it attends to; those without a cache of their own come last.
    Raises: CheckpointError for numbers that cannot be.
    """

    num_streams: int
    active: int
    scaled: bool
    laurel_rank: int
    per_layer_size: int
    per_layer_vocab_size: int
    sparsities: tuple[float, ...]
    cache_owners: tuple[int, ...]

    def __post_init__(self) -> None:
        for key, size, least in (
            ("altup_num_inputs", self.num_streams, 2),
            ("laurel_rank", self.laurel_rank, 1),
            ("hidden_size_per_layer_input", self.per_layer_size, 1),
            ("vocab_size_per_layer_input", self.per_layer_vocab_size, 1),
        ):
            if type(size) is not int or size < least:
                raise CheckpointError(f"config.json: {key} must be a whole number from {least}, found {size!r}")
        if self.active not in range(self.num_streams):
            found = f"must lie below {self.num_streams}, got {self.active!r}"
            raise CheckpointError(f"config.json: altup_active_idx {found}")
        if not all(0 <= sparsity < 1 for sparsity in self.sparsities):
            raise CheckpointError(f"config.json: activation_sparsity_pattern {self.sparsities} must lie from 0 to 1")

    @property
    def num_caches(self) -> int:
        """How many layers have a cache of their own."""
        return len(set(self.cache_owners))

    def outer_shapes(self, hidden_size: int) -> dict[str, tuple[int, ...]]:
        """Return the shapes of the tensors that belong to no layer, by our names; streams beyond the first have two."""
        inputs = len(self.cache_owners) * self.per_layer_size
        return {
            "per_layer_embedding": (self.per_layer_vocab_size, inputs),
            "per_layer_projection": (inputs, hidden_size),
            "per_layer_norm": (self.per_layer_size,),
            "into_stream": (hidden_size, hidden_size),
            "from_stream": (hidden_size, hidden_size),
        }

    def layer_shapes(self, hidden_size: int) -> dict[str, tuple[int, ...]]:
        """Return the shapes of the tensors of a layer, by our names."""
        streams = self.num_streams
        shapes: dict[str, tuple[int, ...]] = {
            "stream_norm": (hidden_size,),
            "stream_router": (streams, hidden_size),
            "prediction": (streams**2, streams),
            "correction": (streams, streams),
            "laurel_left": (self.laurel_rank, hidden_size),
            "laurel_right": (hidden_size, self.laurel_rank),
            "laurel_norm": (hidden_size,),
            "per_layer_gate": (self.per_layer_size, hidden_size),
            "per_layer_out": (hidden_size, self.per_layer_size),
            "per_layer_out_norm": (hidden_size,),
        }
        return shapes | {"stream_scale": (hidden_size,)} if self.scaled else shapes
