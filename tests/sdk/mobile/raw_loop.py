"""The loop of docs/mobile.md in Python with onnxruntime alone: the same calls as examples/mobile/ makes, name by name.

Nothing of skipstone is imported. It reads a bundle as an app does, and decodes greedily.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import onnxruntime as ort

TYPES = {"tensor(float)": np.float32, "tensor(float16)": np.float16, "tensor(int8)": np.int8}
PIECE = 128


class Graphs:
    """The graphs of a bundle, one cache of `capacity` rows, and how many tokens stand in it."""

    def __init__(self, folder: Path, capacity: int, threads: int = 1) -> None:
        self.manifest = json.loads((folder / "skipstone.json").read_text(encoding="utf-8"))
        options = ort.SessionOptions()
        options.intra_op_num_threads = threads
        self.sessions = [
            ort.InferenceSession(str(folder / file), options, providers=["CPUExecutionProvider"])
            for file in self.files()
        ]
        self.length, self.capacity = 0, capacity
        rows = capacity + 1  # a row that attention sees twice lands behind the text
        self.fixed = self.rotary_tables(rows)
        for session in self.sessions:
            for given in session.get_inputs():
                if given.name.startswith("past_"):
                    _, heads, _, size = given.shape
                    self.fixed[given.name] = ort.OrtValue.ortvalue_from_numpy(
                        np.zeros((1, heads, rows, size), TYPES[given.type])
                    )

    def files(self) -> list[str]:
        """The graphs of a plain call, over the type of cache that the bundle was made for."""
        manifest = self.manifest
        files = [stage["file"] for stage in manifest["stages"]] + ([manifest["head"]] if manifest["head"] else [])
        others = manifest["variants"].get(f"cache-{manifest['cache_type']}", {})
        return [others.get(file, file) for file in files]

    def rotary_tables(self, rows: int) -> dict[str, ort.OrtValue]:
        """Cosines and sines of every kind of turn, for the positions of the cache."""
        tables, width = {}, self.manifest["cache"][0]["head_size"] // 2
        for number, rotary in enumerate(self.manifest["rotaries"]):
            frequencies = np.array(rotary["frequencies"], np.float32)
            angles = np.outer(np.arange(rows, dtype=np.float32), frequencies).astype(np.float64)
            for name, turn, rest in (("cosines", np.cos, 1), ("sines", np.sin, 0)):
                table = np.full((rows, width), rest, np.float32)
                table[:, : len(frequencies)] = turn(angles) * rotary["magnitude"]
                tables[f"{name}_{number}"] = ort.OrtValue.ortvalue_from_numpy(table)
        return tables

    def run(self, tokens: list[int], rows: list[int]) -> np.ndarray:
        """Feed tokens behind those in the cache; return the logits behind `rows` of them. The length stays."""
        count, length = len(tokens), self.length
        seen = list(range(count)) + ([count - 1] if count == 1 or count > 16 else [])
        has_rows = any(given.name == "attention_rows" for given in self.sessions[0].get_inputs())
        seen = seen if has_rows else list(range(count))
        total = length + len(seen)
        values = {
            "token_ids": np.array(tokens, np.int64).reshape(1, count, 1),
            "token_weights": np.ones((1, count, 1), np.float32),
            "position_ids": np.array([[length + row for row in seen]], np.int64),
            "seqlens_k": np.array([total - 1], np.int32),
            "total_sequence_length": np.array(total, np.int32),
            "attention_bias": np.zeros((1, 1, len(seen), total), np.float32),
            "attention_rows": np.array(seen, np.int64),
            "token_rows": np.arange(count, dtype=np.int64),
            "rows": np.array(rows, np.int64),
        }
        hidden = logits = None
        for session in self.sessions:
            binding = session.io_binding()
            for given in session.get_inputs():
                name = "seqlens_k" if given.name.startswith("seqlens_k") else given.name
                name = "total_sequence_length" if name.startswith("total_length_") else name
                value = self.fixed.get(name)
                if value is None:
                    value = hidden if name == "hidden" else ort.OrtValue.ortvalue_from_numpy(values[name])
                binding.bind_ortvalue_input(given.name, value)
            for result in session.get_outputs():
                if result.name.startswith("present_"):  # the cache is written in place
                    place = result.name.partition("_of_")[0].replace("present_", "past_")
                    binding.bind_ortvalue_output(result.name, self.fixed[place])
                else:
                    binding.bind_output(result.name, "cpu")
            session.run_with_iobinding(binding)
            made = dict(zip([result.name for result in session.get_outputs()], binding.get_outputs(), strict=True))
            hidden, logits = made.get("hidden_out", hidden), made.get("logits", logits)
        assert logits is not None
        return logits.numpy()


def greedy(graphs: Graphs, prompt: list[int], limit: int, draft: Callable[[list[int]], list[int]]) -> Iterator[int]:
    """Yield tokens until one that ends the text; `draft` guesses some, and changes no token."""
    tokens, stops = list(prompt), set(graphs.manifest["stop_ids"])
    while len(tokens) - 1 - graphs.length > PIECE:  # a long prompt in pieces, its last token stays
        piece = tokens[graphs.length : graphs.length + PIECE]
        graphs.run(piece, [0])
        graphs.length += PIECE
    end = len(tokens) + limit
    while len(tokens) < end and len(tokens) < graphs.capacity:
        pending = tokens[graphs.length :]
        guesses = draft(tokens)[: min(end, graphs.capacity) - len(tokens) - 1]
        first = len(pending) - 1
        logits = graphs.run(pending + guesses, list(range(first, first + 1 + len(guesses))))
        for row, guess in enumerate([*guesses, None]):
            token = int(logits[row].argmax())
            tokens.append(token)
            yield token
            if token in stops:
                return
            if token != guess:
                break
        graphs.length = len(tokens) - 1  # rows of refused guesses lie behind it and are written again


def ngram(tokens: list[int], size: int = 3, most: int = 4) -> list[int]:
    """Guess that what followed the last tokens before follows them again."""
    last = tokens[-size:]
    for start in range(len(tokens) - size - 1, -1, -1):
        if tokens[start : start + size] == last:
            return tokens[start + size : start + size + most]
    return []
