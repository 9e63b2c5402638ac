"""How tasks get along: cosines of their gradients, the noise that hides them, what a step on one does to another."""
