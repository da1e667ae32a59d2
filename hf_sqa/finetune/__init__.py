"""Fine-tune or calibrate a checkpoint on your own listening test, and report what it gained."""
