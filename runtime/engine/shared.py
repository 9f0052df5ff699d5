"""What outlives a text: tables, indexes and measurements that belong to a model."""

from __future__ import annotations

from collections.abc import Callable
from threading import RLock
from typing import Any, TypeVar

__all__ = ["SharedStores"]

T = TypeVar("T")


class SharedStores:
    """Things by name, each made when first asked for. What is stored guards itself against use by two texts at once."""

    def __init__(self) -> None:
        self._stores: dict[str, Any] = {}
        self._lock = RLock()

    def get(self, name: str, make: Callable[[], T]) -> T:
        """Return the store `name`, made by `make` if it is not there yet."""
        with self._lock:
            if name not in self._stores:
                self._stores[name] = make()
            store: T = self._stores[name]
            return store

    def clear(self) -> None:
        """Forget all stores."""
        with self._lock:
            self._stores.clear()

    def find(self, name: str) -> Any | None:
        """Return the store `name` if it is there."""
        with self._lock:
            return self._stores.get(name)
