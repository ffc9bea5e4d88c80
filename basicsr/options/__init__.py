"""What may stand in an option file, and what a run makes of one."""
