"""What one client can do to the others: attacks on a gateway, and the answers of somebody who did nothing wrong."""
