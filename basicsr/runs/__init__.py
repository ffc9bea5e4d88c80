"""What every command needs: checkpoints, resuming, stopping, the command line."""
