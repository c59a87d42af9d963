"""From where examples lie to normalised batches on the device."""
