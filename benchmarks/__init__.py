"""One-off measurements, and peers that dust is measured against; not installed."""
