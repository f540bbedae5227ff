"""Mechanism that knows no contract and no engine."""
