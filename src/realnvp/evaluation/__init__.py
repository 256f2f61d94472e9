"""Numbers and pictures of a trained flow."""
