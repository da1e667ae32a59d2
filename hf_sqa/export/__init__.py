"""Graphs and pages that score without torch."""
