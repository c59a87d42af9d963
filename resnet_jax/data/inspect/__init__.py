"""Inspection of a dataset before training: its statistics, and problems that would stop or spoil a run."""
