"""Sessions in a fork: the child has none of their threads, and would wait for ever if it ended them."""

from __future__ import annotations

import ctypes
import functools
import os
import weakref

import onnxruntime as ort

__all__ = ["keep_in_forks"]


def keep_in_forks(session: ort.InferenceSession) -> None:
    """Let every process that is forked from this one keep the session until it ends, whatever is dropped there.

    A kept session still runs, on the calling thread alone.
    """
    _open_sessions().add(session)


@functools.cache
def _open_sessions() -> weakref.WeakSet[ort.InferenceSession]:
    sessions = weakref.WeakSet[ort.InferenceSession]()
    if hasattr(os, "register_at_fork"):
        os.register_at_fork(after_in_child=lambda: _keep(sessions))
    return sessions


def _keep(sessions: weakref.WeakSet[ort.InferenceSession]) -> None:
    """Take a reference that nobody gives back: Python destroys all others when the process ends."""
    for session in sessions:
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(session))
