"""What a test leaves: intervals, tables, plots, files."""
