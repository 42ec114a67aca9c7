"""The observer process: discovery, health probes, Envoy's endpoint file and the admin port. No request passes here."""
