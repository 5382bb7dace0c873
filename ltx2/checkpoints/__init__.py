"""The files of a model, on disk or on the hub: finding, fetching and checking them."""
