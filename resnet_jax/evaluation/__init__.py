"""Scoring a network: every example exactly once."""
