"""Which matrices are embedding and head where config.json and the weights do not say the same.

As transformers does it: with tie_word_embeddings, a head that is stored too counts if it is another matrix, and a head
that is stored alone is the embedding as well.
"""

from __future__ import annotations

import hashlib
from dataclasses import replace

from skipstone.errors import CheckpointError
from skipstone.exporters.checkpoints.checkpoint import Checkpoint
from skipstone.exporters.checkpoints.tensors import TensorSource
from skipstone.exporters.families import Architecture

__all__ = ["with_stored_head"]


def with_stored_head(checkpoint: Checkpoint, architecture: Architecture) -> tuple[Architecture, tuple[str, ...]]:
    """Return the architecture with the embedding and the head that are stored, and what is to be said about them.

    Cost: reads both matrices, one after the other, where config.json ties them and both are there.
    Raises: CheckpointError where there is no head, and config.json says that the embedding is not it.
    """
    names, present = architecture.names, checkpoint.tensors.names()
    embedding, head = names["embedding"], names["head"]
    if not architecture.tied_embedding:
        if head not in present and embedding in present:
            raise CheckpointError(
                f"{checkpoint.source} holds no head: {head} is missing, and config.json says tie_word_embeddings = "
                "false. It was saved from a class without one: save it from AutoModelForCausalLM; or, where the "
                "embedding is the head, set tie_word_embeddings to true"
            )
        return architecture, ()
    if head not in present:
        return architecture, ()
    if embedding not in present:
        return replace(architecture, names={**names, "embedding": head}), ()
    shape = (architecture.dimensions.vocab_size, architecture.dimensions.hidden_size)
    if _digest(checkpoint.tensors, embedding, shape) == _digest(checkpoint.tensors, head, shape):
        return architecture, ()
    said = f"config.json says tie_word_embeddings, but {head} is stored and another matrix: it is the head"
    return replace(architecture, tied_embedding=False), (said,)


def _digest(tensors: TensorSource, name: str, shape: tuple[int, int]) -> bytes:
    return hashlib.blake2b(tensors.read(name, shape).data).digest()
