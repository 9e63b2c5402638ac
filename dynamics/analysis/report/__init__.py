"""What runs show beside each other: summaries, differences, figures of training and of samples, written reports."""
