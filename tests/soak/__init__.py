"""What harm does: kills, damage, bad input, hostile files and full disks, many of each; see `__main__`."""
