"""Option files: which keys they may have, and how a run reads, checks and resolves them."""
