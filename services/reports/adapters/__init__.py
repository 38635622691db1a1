"""The outside world of reports: DuckDB over Parquet, the chart engine, and the writers of each format."""
