"""A gateway of one or several processes: sockets, supervision, shares of limits, and files that change."""
