"""Public weights come in as runs, and runs go out as public weights."""
