"""How long rows of usage are kept: months, horizons, and the ranges of ids that a month's events have. Pure."""
