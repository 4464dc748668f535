"""Labelled images, the training of one network for all its widths, and what it leaves behind."""
