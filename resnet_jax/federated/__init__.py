"""Federated learning: who takes part in a round, and what happens to the updates on their way into the model."""
