"""Texts for asyncio: a thread for each makes its pieces when they are asked for, and the event loop never waits.

asyncio and threads are imported when they are used: who does not use them starts sooner.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Callable, Generator, Iterator
from contextlib import suppress
from typing import TYPE_CHECKING, TypeVar

from skipstone.devices import Cancellation
from skipstone.runtime.generation import Generation, Piece

if TYPE_CHECKING:
    import asyncio

__all__ = ["async_pieces", "join_async"]

T = TypeVar("T")


async def async_pieces(
    begin: Callable[[Cancellation], Iterator[Piece]], cancel: Cancellation | None = None
) -> AsyncGenerator[Piece, None]:
    """Yield the pieces of the text that `begin` gives, which is called with what cancels it.

    No piece is made before it is asked for. Where the task is cancelled the running model call ends at once, and the
    task when it has; the text keeps what was yielded. Raises: what `begin` and the text do, at the next piece.
    """
    import asyncio
    from concurrent.futures import ThreadPoolExecutor

    cancellation, loop = cancel or Cancellation(), asyncio.get_running_loop()
    thread = ThreadPoolExecutor(1, thread_name_prefix="skipstone text")
    pieces: Iterator[Piece] = iter(())
    try:
        pieces = await _made(loop.run_in_executor(thread, begin, cancellation), cancellation)
        while (piece := await _made(loop.run_in_executor(thread, _next, pieces), cancellation)) is not None:
            yield piece
    finally:
        try:
            await asyncio.shield(loop.run_in_executor(thread, _close, pieces))
        finally:
            thread.shutdown(wait=False)


async def _made(made: asyncio.Future[T], cancellation: Cancellation) -> T:
    """Return what a thread makes; where the task is cancelled, end that first."""
    import asyncio

    try:
        return await asyncio.shield(made)
    except asyncio.CancelledError:
        cancellation.cancel()
        with suppress(BaseException):
            await made
        raise
    finally:
        del made  # it may hold an error, whose frames hold it


def _next(pieces: Iterator[Piece]) -> Piece | None:
    return next(pieces, None)  # no future takes a StopIteration


def _close(pieces: Iterator[Piece]) -> None:
    if isinstance(pieces, Generator):
        pieces.close()


async def join_async(pieces: AsyncIterator[Piece]) -> Generation:
    """Return what all pieces of a text make together."""
    return Generation.join([piece async for piece in pieces])
