"""Several servers behind one Envoy, as `deploy/envoy` configures it: restarts and deaths under load."""
