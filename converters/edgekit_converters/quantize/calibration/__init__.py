"""Ranges of activations from a stream of calibration rows, in bounded memory."""
