"""Arguments and options that several commands share."""

from __future__ import annotations

from typing import Annotated

import typer

__all__ = ["BundleArgument", "DeviceOption", "JsonOption", "QuietOption", "ThreadsOption"]

BundleArgument = Annotated[str, typer.Argument(metavar="BUNDLE", help="Bundle folder, or the word pebble.")]
DeviceOption = Annotated[str, typer.Option("--device", help="Where to run; `skipstone devices` lists them.")]
ThreadsOption = Annotated[
    int | None, typer.Option("--threads", min=1, help="Threads; by default the physical cores we may use.")
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]
QuietOption = Annotated[bool, typer.Option("--quiet", "-q", help="Say nothing on standard error but errors.")]
