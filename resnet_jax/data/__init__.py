"""The data pipeline: from a dataset on disk to normalized batches on the devices."""
