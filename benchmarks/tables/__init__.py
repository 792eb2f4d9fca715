"""What docs/benchmarks.md shows of each file in benchmarks/results: one module a benchmark, one function a table."""
