"""The loops: train, test, and the one evaluation loop that both use."""
