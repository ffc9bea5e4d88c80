"""Archives of photographs by camera: their contents and layout, and simulated cameras."""
