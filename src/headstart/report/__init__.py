"""Plots and one HTML page from run folders. Importing this package loads no torch."""
