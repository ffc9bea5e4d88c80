"""Claims as commands: grids of trainings and tests, and the tables that come of them."""
