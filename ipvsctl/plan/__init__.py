"""Plans: the difference between a director that is wanted and a host as found, and how a plan is run and undone."""
