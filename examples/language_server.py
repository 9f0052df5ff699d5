"""A language server that offers inline completion (LSP 3.18): drafts of what follows the cursor, as one types.

python language_server.py [BUNDLE]; an editor starts it and talks to it by standard input and output.
Needs pygls: pip install pygls
"""

from __future__ import annotations

import asyncio
import itertools
import sys

from lsprotocol import types
from pygls.lsp.server import LanguageServer

import skipstone

server = LanguageServer("skipstone", "v1")
suggester = skipstone.load(sys.argv[1] if len(sys.argv) > 1 else "pebble").suggester(num_drafts=3, max_new_tokens=12)
numbers, newest = itertools.count(1), {"number": 0}  # of requests


@server.feature(types.TEXT_DOCUMENT_INLINE_COMPLETION, types.InlineCompletionOptions())
async def complete(ls: LanguageServer, params: types.InlineCompletionParams) -> types.InlineCompletionList:
    """Return drafts for the text before the cursor; a request that is not the newest ends with the step it is in."""
    number = newest["number"] = next(numbers)
    document = ls.workspace.get_text_document(params.text_document.uri)
    text = document.source[: document.offset_at_position(params.position)]
    try:
        drafts = await asyncio.to_thread(suggester.suggest, text, wanted=lambda: number == newest["number"])
    except asyncio.CancelledError:  # the editor sent $/cancelRequest
        newest["number"] = 0
        raise
    here = types.Range(start=params.position, end=params.position)
    return types.InlineCompletionList([types.InlineCompletionItem(draft.text, range=here) for draft in drafts])


if __name__ == "__main__":
    server.start_io()
