"""How dense FFNs are carved into experts: which of their neurons belong to which."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["CarvedFfn", "Carving"]


@dataclass(frozen=True, slots=True, kw_only=True)
class CarvedFfn:
    """One FFN: its first neurons are those of `num_routed` experts of `width` each, all others are always active.

    `router` says how experts are scored: by the size of one `neuron` each, the first of those that are always active,
    or by a `linear` matrix of their own. With `has_rests` each expert has a vector that stands in where it is left out.
    """

    num_routed: int
    width: int
    router: str = "neuron"
    has_rests: bool = False

    def num_active(self, share: float, num_neurons: int) -> int:
        """Return how many routed experts are active with a share of the neurons; never none."""
        count = round((share * num_neurons - (num_neurons - self.first_shared)) / self.width)
        return min(self.num_routed, max(1, count))

    def router_shapes(self, hidden_size: int) -> dict[str, tuple[int, ...]]:
        """Return the shapes of what a carved FFN has beside its matrices, by our names."""
        rests = {"expert_rest": (hidden_size, self.num_routed)} if self.has_rests else {}
        if self.router == "neuron":
            return {"expert_gain": (self.num_routed,), **rests}
        return {"expert_router": (self.num_routed, hidden_size), "expert_offset": (self.num_routed,), **rests}

    @property
    def first_shared(self) -> int:
        """The first neuron that is always active."""
        return self.num_routed * self.width


@dataclass(frozen=True, slots=True, kw_only=True)
class Carving:
    """The carved FFNs by layer, None for a layer without one. Of all experts `num_shared` are always active.

    Where the width of an FFN is no multiple of an expert's, the shared ones have what is left too.
    """

    num_experts: int
    num_shared: int
    layers: tuple[CarvedFfn | None, ...]
