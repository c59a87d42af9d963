"""Use of trained models: predictions, features, similar images, and export of weights."""
