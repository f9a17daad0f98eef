"""One question, asked of every variant under one budget: read it, plan it, run it."""
