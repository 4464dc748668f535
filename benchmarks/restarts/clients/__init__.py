"""Clients of gRPC that spread calls over gateways, in three languages, and tell what became of each call."""
