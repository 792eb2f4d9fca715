"""Student architectures, teacher sources, tasks and data."""
