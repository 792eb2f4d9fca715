"""A run as one HTML file: no JavaScript, no network, and nothing that a label or a file name could inject."""
