"""Evaluation of models: every example that can be read is scored exactly once."""
