"""Tokens from some of the experts into which FFNs are carved: a drafter, and its approximate twin."""
