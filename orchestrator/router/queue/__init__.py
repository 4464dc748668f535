"""Requests that wait: which are let in, in which order they are served, and which are given up."""
