"""Augmentation of batches on the device, by pure functions: `pipeline.from_config` puts them together."""
