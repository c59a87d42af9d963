"""Self-supervised learning: methods, their losses and networks, and what their embeddings are worth."""
