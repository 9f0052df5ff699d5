"""Methods that let a smaller model write first: drafters, and their approximate twins."""

from __future__ import annotations

from skipstone.runtime.methods.small_model.async_model import AsyncDrafter, open_async
from skipstone.runtime.methods.small_model.big_little import forgive
from skipstone.runtime.methods.small_model.cascade import Deferral, chow_quantile
from skipstone.runtime.methods.small_model.follower import Follower, open_small_model
from skipstone.runtime.methods.small_model.foreign import LEAST_SHARE, ForeignDrafter, open_foreign
from skipstone.runtime.methods.small_model.mirror import Mirror
from skipstone.runtime.methods.small_model.model import open_model
from skipstone.runtime.methods.small_model.run_ahead import RunAhead
from skipstone.runtime.methods.small_model.staged import open_staged
from skipstone.runtime.methods.small_model.switch import EntropySwitch, decode_switch, entropy_bits
from skipstone.runtime.methods.small_model.tree import ChainsDrafter, TreeDrafter, open_tree

__all__ = [
    "LEAST_SHARE",
    "AsyncDrafter",
    "ChainsDrafter",
    "Deferral",
    "EntropySwitch",
    "Follower",
    "ForeignDrafter",
    "Mirror",
    "RunAhead",
    "TreeDrafter",
    "chow_quantile",
    "decode_switch",
    "entropy_bits",
    "forgive",
    "open_async",
    "open_foreign",
    "open_model",
    "open_small_model",
    "open_staged",
    "open_tree",
]
