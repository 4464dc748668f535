"""gRPC on HTTP/2: what is written on the wire, calls as a server answers them, and channels that make them."""
