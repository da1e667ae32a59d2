"""The Space: a web page that scores, compares and batches recordings. Needs gradio, the extra `demo`."""
