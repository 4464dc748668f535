"""The servers of a router: their connections, their health, and what is known of their speed."""
