"""What `inspect` says of layers that see a window."""

from __future__ import annotations

from dataclasses import replace

from conftest import MakeBundle, MakeCheckpoint

from skipstone.cli.memory_table import windows_told
from skipstone.runtime.bundle import Bundle


def test_inspect_tells_what_the_caches_of_windowed_layers_hold(
    make_checkpoint: MakeCheckpoint, make_bundle: MakeBundle
) -> None:
    plain = Bundle.open(make_bundle(make_checkpoint())).manifest
    assert windows_told(plain) == []
    first, *others = plain.cache
    windowed = replace(plain, cache=(first, *(replace(layer, window=20) for layer in others)))
    of_all = "3 of 4 caches are read through a window of 20 tokens: they hold"
    assert windows_told(windowed) == [f"{of_all} all rows"]
    ringed = replace(windowed, cache=(first, *(replace(layer, ring=8) for layer in windowed.cache[1:])))
    assert windows_told(ringed) == [f"{of_all} 40 rows at most"]
