"""Export of graphs and pages that score without torch."""
