"""Fine-tune or calibrate a checkpoint on a listening test of one's own, and say what it brought."""
