"""Fit the teacher to the user's rows."""
