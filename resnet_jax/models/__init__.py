"""ResNets as pure functions of (variables, images)."""
