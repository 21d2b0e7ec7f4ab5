"""Small, general pieces that know nothing of models, data or configuration."""
