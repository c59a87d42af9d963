"""From where examples lie to normalized batches on the device."""
