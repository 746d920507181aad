"""The adaptation daemon: keeps a model fitted to the place where it runs."""
