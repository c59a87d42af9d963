"""Studies: several runs of one recipe, trained and summarized together, as with several seeds, folds or settings."""
