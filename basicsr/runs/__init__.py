"""What all commands share: checkpoints, resuming, stopping, the command line."""
