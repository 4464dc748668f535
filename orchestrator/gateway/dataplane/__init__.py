"""The answers of the gateway, whatever the transport: the methods of KServe's service."""
