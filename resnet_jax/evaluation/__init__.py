"""Evaluation of models: every example is scored exactly once."""
