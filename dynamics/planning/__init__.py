"""What a run will take, before anybody pays for it: what its network costs, memory, hours, and the machine it gets."""
