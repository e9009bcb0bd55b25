"""Models behind one interface: the data that goes in and comes out, the router, and the clients."""
