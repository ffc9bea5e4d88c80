"""Claims as commands: grids of training and test runs, and the tables made from them."""
