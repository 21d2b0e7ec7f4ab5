"""Many runs of one recipe: a study's trials, who runs them, and what they came to."""
