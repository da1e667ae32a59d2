"""Layers and losses that more than one family uses."""
