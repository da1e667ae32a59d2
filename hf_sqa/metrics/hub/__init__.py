"""The metrics as folders for `evaluate.load`."""
