"""Dead letters as values: what they hold, how they are shown, mended and forgotten. Pure."""
