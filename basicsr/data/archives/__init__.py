"""Archives of photographs by camera: what they hold, how they are laid out, and cameras that are simulated."""
