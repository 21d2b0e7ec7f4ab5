"""What a GPU computes and how fast, asked in a few minutes: stages in processes of their own, each with a deadline."""
