"""ResNets as Linen modules: pure functions from variables and images to logits."""
