"""Gateways that are restarted in turn while foreign clients and balancers send 200 requests a second: 0 may fail.

Each client repeats nothing by a policy of its own, so what a gateway breaks off or refuses is counted. `clients` are
programs that take addresses, a rate and a message and print what they met when their input ends; `proxies` are the
balancers between, and `installed` finds both; `testbed` is what is restarted, `cells` who sends through what, `measure`
does it and `page` writes it down.
"""
