"""Augmentation of batches on the device, as pure functions.

`pipeline.from_config` composes all of them except `geometry.alternating_flip`, which needs the epoch and is applied by
`Experiment.batch`.
"""
