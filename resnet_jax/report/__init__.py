"""The HTML report on trained models."""
