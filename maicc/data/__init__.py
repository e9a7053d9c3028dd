"""Episodes of behaviour policies: played, imported, checked, stored and read."""
