"""Record what the Python runtime does, for the tests of the browser's: `python web/traces.py FOLDER`.

The folder gets bundles, each with a `traces.json`: tokens of texts, of superposed drafts and of n-gram drafts, logits,
and the token ids of many strings.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import skipstone
from skipstone.runtime.methods.from_text.ngram import NgramDrafter
from skipstone.runtime.text import TextIndex

BUNDLES = {"pebble-mini-fp32": ("pebble-mini", "fp32"), "pebble-mini-int8": ("pebble-mini", "int8")}
BUNDLES |= {"pebble-mini-int4": ("pebble-mini", "int4"), "pebble": ("pebble", "int8")}
PROMPTS = (
    "def read_json(path):\n",
    "import os\nimport sys\n\n\ndef main():\n    for name in",
    "class Stack:\n    def __init__(self):\n        self.items = []\n\n    def push(self, item):\n",
    "x = [1, 2, 3]\ny = [1, 2, 3]\nz = [1, 2,",
)
STRINGS = (
    "",
    " ",
    "   leading and trailing   ",
    "tab\tand\nlines\r\n\n\n",
    "naïve café, Straße, İstanbul",
    "日本語の文字と한국어와中文",
    "emoji 👩‍👩‍👧‍👦 🏳️‍🌈 👍🏽 and flags 🇨🇭",
    "numbers 0 12 345 6789 1,234.56 3e-10 0xFF",
    "don't we'll they've I'M HE'S",
    "under_score camelCase kebab-case __dunder__",
    "()[]{}<>!@#$%^&*-+=|\\/?.,:;'\"`~",
    "<|endoftext|> in a text, <s> and </s>",
    "zero\u200bwidth \u00a0 no-break \u3000 wide",
    "combining e\u0301 and \u0627\u0644\u0639\u0631\u0628\u064a\u0629",
    "control \x00 \x07 \x1b bytes",
    "    def f(self, *args, **kwargs) -> dict[str, int]:\n        return {k: v for k, v in args}\n",
)


def main() -> None:
    folder = Path(sys.argv[1])
    for name, (model, precision) in BUNDLES.items():
        bundle = folder / name
        if not bundle.exists():
            skipstone.export(model, bundle, precision=precision)
        (bundle / "traces.json").write_text(json.dumps(traces_of(bundle)))


def traces_of(bundle: Path) -> dict[str, Any]:
    """Return what is recorded of a bundle."""
    model = skipstone.load(bundle)
    tokenizer = model.runtime.tokenizer
    texts = [text_of(model, prompt) for prompt in PROMPTS]
    histories = [text["prompt_ids"] + text["token_ids"] for text in texts]
    return {
        "texts": texts,
        "drafts": [drafts_of(history) for history in histories],
        "tokenizer": [{"text": text, "ids": tokenizer.encode(text)} for text in STRINGS],
        "decoded": [{"ids": ids, "text": tokenizer.decode(ids)} for ids in histories],
    }


def text_of(model: Any, prompt: str) -> dict[str, Any]:
    """Return the tokens that plain decoding writes behind a prompt, its first logits, and superposed drafts."""
    result = model.generate(prompt, max_new_tokens=48, decode="plain", temperature=0)
    suggestions = model.suggest(prompt, method="superposed", complete_words=False)
    return {
        "prompt": prompt,
        "prompt_ids": model.runtime.tokenizer.encode(prompt),
        "token_ids": list(result.token_ids),
        "text": result.text,
        "suggestions": [suggestion.to_json() for suggestion in suggestions],
    }


def drafts_of(history: list[int]) -> dict[str, Any]:
    """Return what an n-gram drafter proposes behind each beginning of a text."""
    drafter = NgramDrafter(TextIndex(1024))
    proposals = [list(drafter.propose(history[:size], limit=16).token_ids) for size in range(1, len(history) + 1)]
    return {"history": history, "proposals": proposals}


if __name__ == "__main__":
    main()
