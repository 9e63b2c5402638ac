"""What experiments show over their seeds: claims and findings, arms side by side, and published numbers beside ours."""
