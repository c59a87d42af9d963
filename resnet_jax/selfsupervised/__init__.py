"""Self-supervised learning: methods, losses, models, and the quality of embeddings."""
