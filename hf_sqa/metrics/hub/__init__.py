"""The metrics as folders that `evaluate.load` takes."""
