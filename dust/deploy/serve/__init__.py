"""A trained model behind HTTP: the answers of ``dust predict``, for programs and for a page in a browser."""
