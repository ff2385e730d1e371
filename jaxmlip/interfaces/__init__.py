"""Foreign programs: the ASE calculator."""
