"""Decoding whose text may differ from plain decoding's, each method with a dial that reaches plain decoding."""

from skipstone.runtime.approximate.method import APPROXIMATE, ApproximateContext, ApproximateMethod, Opened

__all__ = ["APPROXIMATE", "ApproximateContext", "ApproximateMethod", "Opened"]
