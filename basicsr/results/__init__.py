"""Results of a test: intervals, tables, plots, files."""
