"""HTTP on `http.client`: endpoints, connections that are kept alive, limits, cancelling. Knows nothing of chat."""
