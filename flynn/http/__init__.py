"""HTTP on sockets and `http.client`: endpoints, connections kept alive, limits, cancelling. Knows nothing of chat."""
