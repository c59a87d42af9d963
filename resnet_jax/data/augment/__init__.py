"""Augmentation of batches on the device, as pure functions; `pipeline.from_config` composes them."""
